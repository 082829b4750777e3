//! Connections to a database, and the schema in it.

use std::fmt::Write as _;
use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use cas_core::{Error, Result};
use cas_host::{Dir, calls};
use rusqlite::config::DbConfig;
use rusqlite::{Connection, MAIN_DB, OpenFlags};
use rustix::fs::{IFlags, fstatfs, ioctl_setflags};

use crate::error::{classify, undisturbed};

/// The format number of databases that this release writes. SQLite stores this number in a database
/// as `user_version`. Format 1 has the same schema, but no records of the kind `notes`. A store of
/// files (`backend-fs`) uses the same number for its own format.
pub const VERSION: u32 = 2;
/// Maximum time that a commit waits for commits of other processes.
const BUSY_TIMEOUT: Duration = Duration::from_secs(30);
/// The type of btrfs in the status of a file system.
const BTRFS: i64 = 0x9123_683e;
/// Number of pages of 4 KiB in the log after which SQLite writes them to the database.
const CHECKPOINT: u32 = 256;
/// The one row of `revisions` has the last revision that a record was given, so that no revision is
/// given twice.
const SCHEMA: &str = "
    CREATE TABLE records (
        kind TEXT NOT NULL, key TEXT NOT NULL, value BLOB NOT NULL, revision INTEGER NOT NULL,
        PRIMARY KEY (kind, key)) STRICT, WITHOUT ROWID;
    CREATE TABLE revisions (last INTEGER NOT NULL) STRICT;
    INSERT INTO revisions VALUES (0);
    PRAGMA user_version = 2;";

/// Returns a connection for reading and one for writing. Creates the database if it is absent, and
/// upgrades an older format.
pub(crate) fn connect_both(path: &Path, dir: &Dir) -> Result<(Connection, Connection)> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    create_index(path, dir);
    let (writer, found) = undisturbed(|| {
        let writer = connect(path, flags | OpenFlags::SQLITE_OPEN_CREATE)?;
        let found = format(&writer)?;
        Ok((writer, found))
    })?;
    // The files have their names now. SQLite syncs only the name of the log, and ignores a failure
    // of that sync.
    dir.sync()?;
    undisturbed(|| {
        let upgraded = match found {
            None => writer
                .execute_batch(&format!("BEGIN IMMEDIATE; {SCHEMA} COMMIT;"))
                .inspect_err(|_| {
                    // Fails if SQLite has ended the transaction itself.
                    let _ = writer.execute_batch("ROLLBACK");
                }),
            Some(found) if found == i64::from(VERSION) => Ok(()),
            Some(_) => writer.pragma_update(None, "user_version", VERSION),
        };
        upgraded.map_err(classify)
    })?;
    Ok((undisturbed(|| connect(path, flags))?, writer))
}

/// On btrfs, creates the index of the log as a file that is overwritten in place. SQLite writes the
/// index through a mapping. If such a write needs new space on a full disk, the process gets
/// SIGBUS. Other file systems overwrite all files in place.
fn create_index(database: &Path, dir: &Dir) {
    if !fstatfs(dir).is_ok_and(|status| status.f_type == BTRFS) {
        return;
    }
    // If this user is the superuser, SQLite gives the file to the owner of the database.
    let index = beside(database, "-shm");
    let created = File::options().write(true).create_new(true).open(index);
    if let Ok(file) = created {
        // Without the flag, SQLite works, except that a full disk may cause SIGBUS.
        let _ = ioctl_setflags(&file, IFlags::NOCOW);
    }
}

/// Returns the path of a file that SQLite keeps next to a database.
fn beside(database: &Path, suffix: &str) -> PathBuf {
    let mut path = database.as_os_str().to_owned();
    path.push(suffix);
    path.into()
}

/// Returns a connection that changes no records. An absent or unfinished database reads as empty.
pub(crate) fn connect_read_only(path: &Path) -> Result<Connection> {
    if exists(path)? {
        let opened = undisturbed(|| {
            let connection = open_read_only(path).map_err(classify)?;
            Ok(format(&connection)?.is_some().then_some(connection))
        });
        if let Some(connection) = opened? {
            return Ok(connection);
        }
    }
    empty().map_err(classify)
}

/// Returns the format number of the database at `path`, even if it is larger than [`VERSION`].
/// Returns `None` if the database does not exist, or does not state its format. Does not change the
/// database, but SQLite may create the index of the log (`NAME-shm`) if the log has no index. Does
/// not detect damaged records.
///
/// # Errors
/// `Corrupt` if the file is not a database, or if it is so damaged that SQLite cannot read the
/// format number; errors of the file system and of SQLite.
pub fn stored_version(path: &Path) -> Result<Option<i64>> {
    if !exists(path)? {
        return Ok(None);
    }
    let version = undisturbed(|| user_version(&open_read_only(path).map_err(classify)?))?;
    Ok(Some(version).filter(|version| *version != 0))
}

fn exists(path: &Path) -> io::Result<bool> {
    calls::undisturbed(|| path.try_exists())
}

fn connect(path: &Path, flags: OpenFlags) -> Result<Connection> {
    let connection = Connection::open_with_flags(path, flags).map_err(classify)?;
    // SQLite opens a file for reading if it cannot open it for writing. The system's last error is
    // the reason.
    if connection.is_readonly(MAIN_DB).map_err(classify)? {
        return Err(io::Error::last_os_error().into());
    }
    let configure = || -> rusqlite::Result<()> {
        // The log and its index stay when the last connection closes. On a disk that is read-only
        // or has no free inodes, the next connection could not create them.
        connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
        connection.pragma_update(None, "temp_store", "MEMORY")?;
        connection.busy_timeout(BUSY_TIMEOUT)?;
        connection.pragma_update(None, "journal_mode", "WAL")?;
        connection.pragma_update(None, "wal_autocheckpoint", CHECKPOINT)?;
        connection.pragma_update(None, "synchronous", "FULL")
    };
    configure().map_err(classify)?;
    Ok(connection)
}

fn open_read_only(path: &Path) -> rusqlite::Result<Connection> {
    // SQLite reads the log through its index. If it cannot lock the file of the index, it makes the
    // index in memory. If the log is empty or absent and has no index, no process uses the
    // database: older versions of `cas` left a closed database like that.
    let size = |suffix: &str| {
        let file = calls::undisturbed(|| std::fs::metadata(beside(path, suffix)));
        file.map(|file| file.len()).ok()
    };
    let live = size("-wal").is_some_and(|log| log > 0) || size("-shm").is_some();
    let option = if live { "" } else { "?immutable=1" };
    let uri = format!("file:{}{option}", encode(path));
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_URI;
    Connection::open_with_flags(uri, flags)
}

/// Returns a database in memory that has no records and refuses writes.
fn empty() -> rusqlite::Result<Connection> {
    let connection = Connection::open_in_memory()?;
    connection.execute_batch(SCHEMA)?;
    connection.pragma_update(None, "query_only", true)?;
    Ok(connection)
}

/// Returns the format of the database, or `None` if it has no schema yet.
///
/// # Errors
/// `FailedPrecondition` for a newer format; errors of SQLite.
fn format(connection: &Connection) -> Result<Option<i64>> {
    match user_version(connection)? {
        0 => Ok(None),
        found if (1..=VERSION.into()).contains(&found) => Ok(Some(found)),
        found => Err(Error::newer_format(VERSION, found)),
    }
}

fn user_version(connection: &Connection) -> Result<i64> {
    let version = connection.query_row("PRAGMA user_version", (), |row| row.get(0));
    version.map_err(classify)
}

/// Returns a path encoded for a URI of SQLite.
fn encode(path: &Path) -> String {
    let mut encoded = String::new();
    for byte in path.as_os_str().as_bytes() {
        match byte {
            b'%' | b'?' | b'#' | 0x80.. => {
                let _ = write!(encoded, "%{byte:02x}");
            }
            _ => encoded.push(char::from(*byte)),
        }
    }
    encoded
}
