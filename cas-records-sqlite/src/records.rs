//! The records store over one database.

use std::io;
use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use cas_core::group;
use cas_core::records::{Batch, Record, Revision, Table};
use cas_core::sync::lock;
use cas_core::{Capabilities, Capability, Context, Records, Result};
use cas_host::{Dir, Lock, Reserve};
use rusqlite::{OptionalExtension, Row};
use tokio::sync::oneshot;

use crate::commit::Connections;
use crate::connection::{connect_both, connect_read_only};
use crate::error::{classify, without_inodes};
use crate::places;

/// Records in one SQLite database.
#[derive(Clone)]
pub struct SqliteRecords(Arc<Connections>);

impl SqliteRecords {
    /// Opens the database at `path`. Creates the database if it is absent, but does not create its
    /// directory. Also creates the lock, the log, the index of the log, and the file `reserve`,
    /// whose space is used on a full disk. Upgrades a database of an older format.
    ///
    /// # Errors
    /// `FailedPrecondition` if the database has a newer format; `Corrupt` if a part of the database
    /// that this function reads is damaged, or if something other than a regular file is in the
    /// place of the database, its lock, its log or the index of its log; `Full` if the disk is
    /// full; `NotFound` if the directory does not exist; `InvalidArgument` if `path` does not name
    /// a file in a directory, or the name is not UTF-8; errors of the file system and of SQLite.
    pub fn open(path: &Path) -> Result<Self> {
        Self::open_or_create(path).during("open records", path.display())
    }

    fn open_or_create(path: &Path) -> Result<Self> {
        let (parent, name) = places::split(path)?;
        let dir = Dir::open(parent)?;
        places::refuse_misplaced(&dir, name)?;
        let lock = Lock::exclusive(&dir, &places::lock(name))?;
        // On a full disk, this removes the file `reserve`, opens the database, and makes the file
        // again: records can be removed only if the database can be opened.
        let connect = || connect_both(path, &dir).map_err(|error| without_inodes(error, &dir));
        let (reader, writer) = Reserve(&dir).remove_with(connect)?;
        Reserve(&dir).allocate();
        drop(lock);
        Ok(SqliteRecords(Arc::new(Connections::new(
            reader,
            writer,
            Some(dir),
        ))))
    }

    /// Opens the database of a read-only store, and leaves an older format as it is. An absent
    /// database, or one whose creation was interrupted, reads as an empty one.
    ///
    /// # Errors
    /// `FailedPrecondition` if the database has a newer format; `Corrupt` if a part of the database
    /// that this function reads is damaged, or if something other than a regular file is in the
    /// place of the database, its lock, its log or the index of its log; `InvalidArgument` if
    /// `path` does not name a file in a directory, or the name is not UTF-8; errors of the file
    /// system and of SQLite.
    pub fn open_read_only(path: &Path) -> Result<Self> {
        let open = || {
            let (parent, name) = places::split(path)?;
            match Dir::open(parent) {
                // The database does not exist, either.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                dir => places::refuse_misplaced(&dir?, name)?,
            }
            connect_read_only(path)
        };
        let open = || open().during("open records", path.display());
        Ok(SqliteRecords(Arc::new(Connections::new(
            open()?,
            open()?,
            None,
        ))))
    }

    /// Returns a record as [`Records::load`] does, but blocks the calling thread. The error does
    /// not name the operation.
    ///
    /// # Errors
    /// Errors of SQLite.
    pub fn load_blocking(&self, table: Table, key: &str) -> Result<Option<Record>> {
        let connection = lock(&self.0.reader);
        let mut statement = connection
            .prepare_cached("SELECT key, value, revision FROM records WHERE kind = ? AND key = ?")
            .map_err(classify)?;
        statement
            .query_row((table.name(), key), record)
            .optional()
            .map_err(classify)
    }

    /// Commits a batch as [`Records::commit`] does, but blocks the calling thread, and shares the
    /// transaction with no other batch. Only the error of a conflict names the operation.
    ///
    /// # Errors
    /// `Conflict` if a record is not in the expected state; errors of SQLite.
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
            // The range starts at the cursor. Otherwise SQLite would walk the index up to it.
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
        scan().map_err(classify).during("scan records", prefix)
    }
}

fn record(row: &Row<'_>) -> rusqlite::Result<Record> {
    Ok(Record {
        key: row.get(0)?,
        value: row.get::<_, Vec<u8>>(1)?.into(),
        revision: Revision::new(row.get::<_, i64>(2)?.to_string()),
    })
}
