//! The database: one connection for writing and one for reading, so that reads do not wait for
//! commits.

use std::collections::BTreeSet;
use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use cas_core::content::Durability;
use cas_core::{Error, ErrorKind, Result};
use rusqlite::{Connection, Transaction, TransactionBehavior};

use crate::error::Failed;

/// Version of the format of the file. The database stores it as `user_version`.
const VERSION: i64 = 1;

const SCHEMA: &str = "
    CREATE TABLE blobs (
        digest TEXT PRIMARY KEY, size INTEGER NOT NULL, id INTEGER NOT NULL) STRICT, WITHOUT ROWID;
    CREATE TABLE ingests (
        key TEXT PRIMARY KEY, id INTEGER NOT NULL, size INTEGER NOT NULL,
        updated INTEGER NOT NULL) STRICT, WITHOUT ROWID;
    CREATE TABLE pieces (
        id INTEGER NOT NULL, at INTEGER NOT NULL, data BLOB NOT NULL, PRIMARY KEY (id, at)) STRICT;
    CREATE TABLE records (
        kind TEXT NOT NULL, key TEXT NOT NULL, value BLOB NOT NULL, revision INTEGER NOT NULL,
        PRIMARY KEY (kind, key)) STRICT, WITHOUT ROWID;
    CREATE TABLE numbers (last INTEGER NOT NULL) STRICT;
    INSERT INTO numbers VALUES (0);
    PRAGMA user_version = 1;";

pub(crate) struct Engine {
    reader: Mutex<Connection>,
    writer: Mutex<Writer>,
    /// Keys of the ingests that have a writer.
    pub(crate) locked: Mutex<BTreeSet<String>>,
    _owner: Owner,
}

/// The locked file `owner`. The kernel releases the lock when this process ends.
struct Owner(File);

impl Drop for Owner {
    fn drop(&mut self) {
        // Closing is not enough: a child between fork and exec may share the open file.
        let _ = self.0.unlock();
    }
}

struct Writer {
    connection: Connection,
    /// Whether the device failed. It may then have lost earlier unsynced writes.
    failed: bool,
}

impl Engine {
    /// Opens the store in the directory `path`, or creates it.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        DirBuilder::new().recursive(true).mode(0o700).create(path)?;
        // Otherwise a loss of power could lose a new directory with everything in it.
        File::open(path.join(".."))?.sync_all()?;
        let mut options = OpenOptions::new();
        let owner = options.create(true).append(true).open(path.join("owner"))?;
        owner.try_lock().map_err(|error| match error {
            TryLockError::WouldBlock => Error::busy("the store is already open; close it first"),
            TryLockError::Error(error) => error.into(),
        })?;
        let file = path.join("cas.sqlite");
        let opened = connect(&file).and_then(|writer| {
            prepare(&writer)?;
            Ok((connect(&file)?, writer))
        });
        let (reader, connection) = opened.map_err(|Failed(error)| error)?;
        // SQLite syncs the database, but not its directory entry.
        File::open(path)?.sync_all()?;
        Ok(Engine {
            reader: Mutex::new(reader),
            writer: Mutex::new(Writer {
                connection,
                failed: false,
            }),
            locked: Mutex::default(),
            _owner: Owner(owner),
        })
    }

    pub(crate) fn read<T>(&self, work: impl FnOnce(&Connection) -> Result<T, Failed>) -> Result<T> {
        work(&lock(&self.reader)).map_err(|Failed(error)| error)
    }

    /// Does `work` in one transaction, completely or not at all. If `durability` is not `Relaxed`,
    /// this write and all earlier writes are durable when the call returns.
    pub(crate) fn write<T>(
        &self,
        durability: Durability,
        work: impl FnOnce(&Transaction<'_>) -> Result<T, Failed>,
    ) -> Result<T> {
        let mut writer = lock(&self.writer);
        if writer.failed {
            let advice = "the device failed earlier; check it and reopen the store";
            return Err(Error::precondition(advice));
        }
        let outcome = transact(&mut writer.connection, durability, work);
        outcome.map_err(|Failed(error)| {
            writer.failed = error.kind() == ErrorKind::Unavailable;
            error
        })
    }
}

fn transact<T>(
    connection: &mut Connection,
    durability: Durability,
    work: impl FnOnce(&Transaction<'_>) -> Result<T, Failed>,
) -> Result<T, Failed> {
    // NORMAL leaves the log unsynced. The next FULL commit syncs all of it.
    let level = match durability {
        Durability::Relaxed => "NORMAL",
        _ => "FULL",
    };
    connection.pragma_update(None, "synchronous", level)?;
    let tx = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let done = work(&tx)?;
    tx.commit()?;
    Ok(done)
}

/// Returns a number that was never used as an id or a revision.
pub(crate) fn number(tx: &Transaction<'_>) -> rusqlite::Result<i64> {
    tx.prepare_cached("UPDATE numbers SET last = last + 1 RETURNING last")?
        .query_row((), |row| row.get(0))
}

fn connect(file: &Path) -> Result<Connection, Failed> {
    let connection = Connection::open(file)?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    Ok(connection)
}

/// Creates the schema in one transaction if the database is new. Otherwise checks the version of
/// the format.
fn prepare(connection: &Connection) -> Result<(), Failed> {
    match connection.query_row("PRAGMA user_version", (), |row| row.get::<_, i64>(0))? {
        VERSION => Ok(()),
        0 => Ok(connection.execute_batch(&format!("BEGIN IMMEDIATE; {SCHEMA} COMMIT;"))?),
        found => Err(Failed(Error::newer_format(VERSION, found))),
    }
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic under the lock does no harm: a transaction that is dropped is rolled back.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
