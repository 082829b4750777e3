//! Records in SQLite: write-ahead log, one sync a group of commits, many processes.

use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use cas_core::group::{self, Queue};
use cas_core::records::{Batch, Record, Revision, Table};
use cas_core::{Capabilities, Capability, Context, Error, ErrorKind, Records, Result};
use cas_host::{Dir, Lock};
use rusqlite::{Connection, ErrorCode, MAIN_DB, OpenFlags, OptionalExtension, Row};
use tokio::sync::oneshot;

use crate::commit::Waiting;
use crate::reserve::Reserve;

/// Version of the schema, kept in `user_version`.
const VERSION: i64 = 1;
/// How long a commit waits for those of other processes.
const PATIENCE: Duration = Duration::from_secs(30);
/// Pages of 4 KiB at which the log is folded into the database.
const CHECKPOINT: u32 = 256;
/// `revisions` has one row: the last revision given, so that none ever comes twice.
const SCHEMA: &str = "
    CREATE TABLE records (
        kind TEXT NOT NULL, key TEXT NOT NULL, value BLOB NOT NULL, revision INTEGER NOT NULL,
        PRIMARY KEY (kind, key)) STRICT, WITHOUT ROWID;
    CREATE TABLE revisions (last INTEGER NOT NULL) STRICT;
    INSERT INTO revisions VALUES (0);
    PRAGMA user_version = 1;";

/// A home of records in one SQLite database.
#[derive(Clone)]
pub struct SqliteRecords(Arc<Connections>);

/// Readers do not wait for a commit that waits for the disk.
pub(crate) struct Connections {
    reader: Mutex<Connection>,
    pub(crate) writer: Mutex<Connection>,
    /// None for a database that is only read.
    pub(crate) reserve: Option<Reserve>,
    pub(crate) queue: Queue<Waiting>,
}

impl SqliteRecords {
    /// Opens the database at `path`, making it where it is absent. Beside it come its log,
    /// `NAME.lock`, which openings take turns with, and `reserve`, which makes that a full disk
    /// can still be read and have something removed.
    ///
    /// # Errors
    /// `FailedPrecondition` for a newer schema; `Corrupt` for what is no database; `Full`.
    pub fn open(path: &Path) -> Result<Self> {
        Self::create(path).during("open records", path.display())
    }

    fn create(path: &Path) -> Result<Self> {
        let name = path.file_name().and_then(|name| name.to_str());
        let (Some(name), Some(parent)) = (name, path.parent()) else {
            return Err(Error::invalid("names no file; expected PATH/NAME"));
        };
        let dir = Dir::open(parent)?;
        let lock = Lock::exclusive(&dir, &format!("{name}.lock"))?;
        let reserve = Reserve(dir);
        let (reader, writer) = match connect_both(path, &reserve.0) {
            Err(error) if error.kind() == ErrorKind::Full && reserve.give_up() => {
                connect_both(path, &reserve.0)?
            }
            opened => opened.inspect(|_| reserve.take())?,
        };
        drop(lock);
        Ok(Self::of(reader, writer, Some(reserve)))
    }

    /// Opens the database of a store that cannot be written; none is as good as an empty one.
    ///
    /// # Errors
    /// As [`SqliteRecords::open`].
    pub fn open_read_only(path: &Path) -> Result<Self> {
        let open = || -> Result<Connection> {
            if path.exists() {
                let connection = connect_read_only(path).map_err(sort)?;
                if has_schema(&connection)? {
                    return Ok(connection);
                }
            }
            empty().map_err(sort)
        };
        Ok(Self::of(
            open().during("open records", path.display())?,
            open().during("open records", path.display())?,
            None,
        ))
    }

    fn of(reader: Connection, writer: Connection, reserve: Option<Reserve>) -> Self {
        SqliteRecords(Arc::new(Connections {
            reader: Mutex::new(reader),
            writer: Mutex::new(writer),
            reserve,
            queue: Queue::default(),
        }))
    }

    /// Loads a record as [`Records::load`] does, on a thread that may block. The error does not
    /// name the operation.
    ///
    /// # Errors
    /// As [`Records::load`].
    pub fn load_blocking(&self, table: Table, key: &str) -> Result<Option<Record>> {
        let connection = lock(&self.0.reader);
        let mut statement = connection
            .prepare_cached("SELECT key, value, revision FROM records WHERE kind = ? AND key = ?")
            .map_err(sort)?;
        statement
            .query_row((table.name(), key), record)
            .optional()
            .map_err(sort)
    }

    /// Commits a batch as [`Records::commit`] does, on a thread that may block, in a transaction
    /// that it shares with no other batch. The error does not name the operation.
    ///
    /// # Errors
    /// As [`Records::commit`].
    pub fn commit_blocking(&self, batch: &Batch) -> Result<()> {
        self.0.write(batch)
    }
}

#[async_trait]
impl Records for SqliteRecords {
    fn capabilities(&self) -> Capabilities {
        Capabilities::of(&[Capability::Durable, Capability::Shared, Capability::Atomic])
    }

    async fn load(&self, table: Table, key: &str) -> Result<Option<Record>> {
        self.load_blocking(table, key).during("load record", key)
    }

    async fn commit(&self, batch: &Batch) -> Result<()> {
        let (done, outcome) = oneshot::channel();
        let committed = group::join(&self.0, (batch.clone(), done), outcome).await;
        committed
            .and_then(|outcome| outcome)
            .map_err(|error| error.operation("commit record"))
    }

    async fn scan(
        &self,
        table: Table,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<Record>> {
        let connection = lock(&self.0.reader);
        let scan = || -> rusqlite::Result<Vec<Record>> {
            let mut statement = connection.prepare_cached(
                "SELECT key, value, revision FROM records
                 WHERE kind = ?1 AND key >= ?2 AND (?3 IS NULL OR key > ?3) ORDER BY key LIMIT ?4",
            )?;
            let limit = i64::try_from(limit).unwrap_or(i64::MAX);
            // From a cursor beyond the prefix the range begins there, or the index is walked.
            let from = after.map_or(prefix, |after| after.max(prefix));
            let rows = statement.query_map((table.name(), from, after, limit), record)?;
            let mut page = Vec::new();
            for row in rows {
                let row = row?;
                if !row.key.starts_with(prefix) {
                    break;
                }
                page.push(row);
            }
            Ok(page)
        };
        scan().map_err(sort).during("scan records", prefix)
    }
}

/// A connection that reads and one that writes.
fn connect_both(path: &Path, dir: &Dir) -> Result<(Connection, Connection)> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let writer = connect(path, flags | OpenFlags::SQLITE_OPEN_CREATE)?;
    let is_made = has_schema(&writer)?;
    // Database and log have their names now. SQLite syncs only that of the log, and goes on where
    // it cannot.
    dir.sync()?;
    if !is_made {
        let schema = format!("BEGIN IMMEDIATE; {SCHEMA} COMMIT;");
        writer.execute_batch(&schema).map_err(sort)?;
    }
    Ok((connect(path, flags)?, writer))
}

fn connect(path: &Path, flags: OpenFlags) -> Result<Connection> {
    let connection = Connection::open_with_flags(path, flags).map_err(sort)?;
    // What SQLite cannot open to write it opens to read; the system still knows why.
    if connection.is_readonly(MAIN_DB).map_err(sort)? {
        return Err(io::Error::last_os_error().into());
    }
    let configure = || -> rusqlite::Result<()> {
        connection.busy_timeout(PATIENCE)?;
        connection.pragma_update(None, "journal_mode", "WAL")?;
        connection.pragma_update(None, "wal_autocheckpoint", CHECKPOINT)?;
        connection.pragma_update(None, "synchronous", "FULL")
    };
    configure().map_err(sort)?;
    Ok(connection)
}

/// A connection that changes nothing.
fn connect_read_only(path: &Path) -> rusqlite::Result<Connection> {
    // A log that was left, or is being written elsewhere, is read through its index; without one
    // the database cannot change.
    let mut log = path.as_os_str().to_owned();
    log.push("-wal");
    let live = std::fs::metadata(log).is_ok_and(|log| log.len() > 0);
    let option = if live { "" } else { "?immutable=1" };
    let uri = format!("file:{}{option}", encode(path));
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_URI;
    Connection::open_with_flags(uri, flags)
}

/// No records, and none can be written.
fn empty() -> rusqlite::Result<Connection> {
    let connection = Connection::open_in_memory()?;
    connection.execute_batch(SCHEMA)?;
    connection.pragma_update(None, "query_only", true)?;
    Ok(connection)
}

/// Whether the schema was made, of the version that this code reads.
fn has_schema(connection: &Connection) -> Result<bool> {
    let version = connection.query_row("PRAGMA user_version", (), |row| row.get::<_, i64>(0));
    match version.map_err(sort)? {
        VERSION => Ok(true),
        0 => Ok(false),
        found => Err(Error::precondition(format!(
            "expected schema {VERSION}, found {found}; use the newer release that wrote it"
        ))),
    }
}

fn record(row: &Row<'_>) -> rusqlite::Result<Record> {
    Ok(Record {
        key: row.get(0)?,
        value: row.get::<_, Vec<u8>>(1)?.into(),
        revision: Revision::new(row.get::<_, i64>(2)?.to_string()),
    })
}

pub(crate) fn lock(connection: &Mutex<Connection>) -> MutexGuard<'_, Connection> {
    // A transaction that a panic left open was rolled back when it was dropped.
    connection.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Sorts an error of SQLite by what the caller does about it.
pub(crate) fn sort(error: rusqlite::Error) -> Error {
    // Of a call that failed SQLite says which; why, the system said last.
    let cause = Error::from(io::Error::last_os_error()).kind();
    let full = (ErrorKind::Full, "free some space");
    let denied = (ErrorKind::Denied, "the records cannot be written here");
    let (kind, advice) = match error.sqlite_error_code() {
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
            (ErrorKind::Busy, "another process holds the records; retry")
        }
        Some(ErrorCode::DiskFull) => full,
        Some(ErrorCode::ReadOnly | ErrorCode::PermissionDenied) => denied,
        Some(ErrorCode::CannotOpen | ErrorCode::SystemIoFailure) => match cause {
            ErrorKind::Full => full,
            ErrorKind::Denied => denied,
            _ => (ErrorKind::Unavailable, "the device failed"),
        },
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => (
            ErrorKind::Corrupt,
            "the records are damaged; run fsck --repair to rebuild them",
        ),
        _ => (ErrorKind::Internal, "unexpected; please report it"),
    };
    Error::new(kind, format!("{error}; {advice}")).source(error)
}

/// A path as SQLite reads it in a URI.
fn encode(path: &Path) -> String {
    path.to_string_lossy()
        .replace('%', "%25")
        .replace('?', "%3f")
        .replace('#', "%23")
}
