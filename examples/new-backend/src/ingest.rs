//! Writing a blob: rows are appended to an ingest, which becomes a blob when it is published.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use async_trait::async_trait;
use bytes::Bytes;
use cas_core::content::{Durability, Verified};
use cas_core::records::Batch;
use cas_core::{Context, Error, Ingest, Result, pool};
use rusqlite::{Connection, OptionalExtension, Transaction};

use crate::engine::{Engine, lock, number};
use crate::error::Failed;
use crate::records::apply;

/// Maximum number of bytes in one row of the table `pieces`.
const PIECE: usize = 256 << 10;

/// The exclusive right to write under a key, until the last copy is dropped. Work on the pool
/// holds a copy, because the work may outlast its caller.
pub(crate) struct IngestLock {
    engine: Arc<Engine>,
    key: String,
}

impl IngestLock {
    /// Locks `key`. Fails with `Busy` if another writer holds the lock.
    pub(crate) fn acquire(engine: &Arc<Engine>, key: &str) -> Result<Arc<Self>> {
        if !lock(&engine.locked).insert(key.to_owned()) {
            let busy = "another writer holds this ingest; wait until it finishes";
            return Err(Error::busy(busy));
        }
        Ok(Arc::new(IngestLock {
            engine: Arc::clone(engine),
            key: key.to_owned(),
        }))
    }

    /// Removes the ingest. Returns whether there was one.
    pub(crate) fn discard(&self) -> Result<bool> {
        self.engine.write(Durability::Relaxed, |tx| {
            let Some((id, _)) = find(tx, &self.key)? else {
                return Ok(false);
            };
            remove_pieces(tx, id)?;
            tx.execute("DELETE FROM ingests WHERE key = ?", (&self.key,))?;
            Ok(true)
        })
    }
}

impl Drop for IngestLock {
    fn drop(&mut self) {
        lock(&self.engine.locked).remove(&self.key);
    }
}

pub(crate) struct SqliteIngest {
    lock: Arc<IngestLock>,
    id: i64,
    size: u64,
    /// Whether `size` is known to be the size in the file. After a call that failed or whose future
    /// was dropped, the two may differ.
    usable: bool,
}

impl SqliteIngest {
    /// Begins the ingest, or resumes it after the bytes that are in the file.
    pub(crate) fn begin(lock: Arc<IngestLock>) -> Result<Self> {
        let (id, size) = lock.engine.write(Durability::Relaxed, |tx| {
            if let Some(found) = find(tx, &lock.key)? {
                return Ok(found);
            }
            let id = number(tx)?;
            tx.prepare_cached("INSERT INTO ingests VALUES (?, ?, 0, ?)")?
                .execute((&lock.key, id, now()))?;
            Ok((id, 0))
        })?;
        Ok(SqliteIngest {
            lock,
            id,
            size,
            usable: true,
        })
    }

    /// Runs `work` on the pool. If `work` fails or this future is dropped, the ingest is unusable.
    async fn run<T: Send + 'static>(
        &mut self,
        operation: &'static str,
        work: impl FnOnce(&IngestLock, i64, u64) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let (lock, id, size) = (Arc::clone(&self.lock), self.id, self.size);
        if !self.usable {
            let advice = "an earlier call failed or was cancelled; begin the ingest again";
            return Err(Error::precondition(advice)).during(operation, &lock.key);
        }
        self.usable = false;
        let done = pool::run(move || work(&lock, id, size)).await;
        self.usable = done.is_ok();
        done.during(operation, &self.lock.key)
    }
}

#[async_trait]
impl Ingest for SqliteIngest {
    fn key(&self) -> &str {
        &self.lock.key
    }

    fn offset(&self) -> u64 {
        self.size
    }

    async fn append(&mut self, data: Bytes) -> Result<()> {
        let grown = self.size + data.len() as u64;
        self.run("append", move |lock, id, mut at| {
            lock.engine.write(Durability::Relaxed, |tx| {
                for piece in data.chunks(PIECE) {
                    tx.prepare_cached("INSERT INTO pieces VALUES (?, ?, ?)")?
                        .execute((id, integer(at), piece))?;
                    at += piece.len() as u64;
                }
                set_size(tx, &lock.key, at)
            })
        })
        .await?;
        self.size = grown;
        Ok(())
    }

    async fn read_back(&mut self, offset: u64, length: usize) -> Result<Bytes> {
        self.run("read back", move |lock, id, size| {
            lock.engine.read(|db| read(db, id, size, offset, length))
        })
        .await
    }

    async fn rewind(&mut self) -> Result<()> {
        self.run("rewind", |lock, id, _| {
            lock.engine.write(Durability::Relaxed, |tx| {
                remove_pieces(tx, id)?;
                set_size(tx, &lock.key, 0)
            })
        })
        .await?;
        self.size = 0;
        Ok(())
    }

    /// Adds the blob, changes the records and removes the ingest in one transaction.
    async fn publish(
        mut self: Box<Self>,
        verified: &Verified,
        batch: &Batch,
        durability: Durability,
    ) -> Result<bool> {
        verified.check(&self.lock.key, self.size)?;
        let (digest, batch) = (verified.digest().to_string(), batch.clone());
        self.run("publish", move |lock, id, size| {
            lock.engine.write(durability, |tx| {
                apply(tx, &batch)?;
                let added = tx
                    .prepare_cached("INSERT OR IGNORE INTO blobs VALUES (?, ?, ?)")?
                    .execute((digest, integer(size), id))?;
                if added == 0 {
                    remove_pieces(tx, id)?;
                }
                tx.execute("DELETE FROM ingests WHERE key = ?", (&lock.key,))?;
                Ok(true)
            })
        })
        .await
    }
}

/// Reads the blob or ingest with the id `id`, which has `size` bytes. Returns `length` bytes from
/// `offset`, or fewer if the end comes first.
pub(crate) fn read(
    db: &Connection,
    id: i64,
    size: u64,
    offset: u64,
    length: usize,
) -> Result<Bytes, Failed> {
    let end = size.min(offset.saturating_add(length as u64));
    if offset >= end {
        return Ok(Bytes::new());
    }
    let mut statement = db.prepare_cached(
        "SELECT at, data FROM pieces WHERE id = ?1 AND at < ?3
         AND at >= (SELECT max(at) FROM pieces WHERE id = ?1 AND at <= ?2) ORDER BY at",
    )?;
    let mut rows = statement.query((id, integer(offset), integer(end)))?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        let (at, data) = (length_of(row.get(0)?), row.get_ref(1)?);
        let data = data.as_blob().map_err(rusqlite::Error::from)?;
        let within = |edge: u64| {
            let inside = edge.saturating_sub(at);
            usize::try_from(inside).map_or(data.len(), |inside| inside.min(data.len()))
        };
        found.extend_from_slice(&data[within(offset)..within(end)]);
    }
    if found.len() as u64 != end - offset {
        return Err(Failed(Error::not_found(
            "some of the bytes are no longer in the store; store the blob again",
        )));
    }
    Ok(found.into())
}

pub(crate) fn remove_pieces(tx: &Transaction<'_>, id: i64) -> rusqlite::Result<usize> {
    tx.prepare_cached("DELETE FROM pieces WHERE id = ?")?
        .execute((id,))
}

fn find(tx: &Transaction<'_>, key: &str) -> rusqlite::Result<Option<(i64, u64)>> {
    tx.prepare_cached("SELECT id, size FROM ingests WHERE key = ?")?
        .query_row((key,), |row| Ok((row.get(0)?, length_of(row.get(1)?))))
        .optional()
}

fn set_size(tx: &Transaction<'_>, key: &str, size: u64) -> Result<(), Failed> {
    tx.prepare_cached("UPDATE ingests SET size = ?, updated = ? WHERE key = ?")?
        .execute((integer(size), now(), key))?;
    Ok(())
}

/// Returns the time in milliseconds since 1970.
fn now() -> i64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

/// Converts a length for SQLite, which has no unsigned numbers. No length is near the limit.
pub(crate) fn integer(length: u64) -> i64 {
    i64::try_from(length).unwrap_or(i64::MAX)
}

pub(crate) fn length_of(integer: i64) -> u64 {
    u64::try_from(integer).unwrap_or_default()
}
