//! Bytes on their way in: rows that are appended, and become a blob when its digest is known.

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

/// Most bytes of a row.
const PIECE: usize = 256 << 10;

/// The right to write under a key; work that outlives its caller holds it too.
pub(crate) struct Lease {
    engine: Arc<Engine>,
    key: String,
}

impl Lease {
    /// The right, or `Busy`.
    pub(crate) fn take(engine: &Arc<Engine>, key: &str) -> Result<Arc<Self>> {
        if !lock(&engine.held).insert(key.to_owned()) {
            let busy = "another writer holds this ingest; wait for it to end";
            return Err(Error::busy(busy));
        }
        Ok(Arc::new(Lease {
            engine: Arc::clone(engine),
            key: key.to_owned(),
        }))
    }

    /// Forgets what was written; whether there was anything to forget.
    pub(crate) fn discard(&self) -> Result<bool> {
        self.engine.write(false, |tx| {
            let Some((id, _)) = find(tx, &self.key)? else {
                return Ok(false);
            };
            remove_pieces(tx, id)?;
            tx.execute("DELETE FROM ingests WHERE key = ?", (&self.key,))?;
            Ok(true)
        })
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        lock(&self.engine.held).remove(&self.key);
    }
}

pub(crate) struct SqliteIngest {
    lease: Arc<Lease>,
    id: i64,
    size: u64,
    /// Whether `size` is what the file holds: not after an append that failed or was given up.
    sound: bool,
}

impl SqliteIngest {
    /// Begins, or goes on with what is there.
    pub(crate) fn begin(lease: Arc<Lease>) -> Result<Self> {
        let (id, size) = lease.engine.write(false, |tx| {
            if let Some(found) = find(tx, &lease.key)? {
                return Ok(found);
            }
            let id = number(tx)?;
            tx.prepare_cached("INSERT INTO ingests VALUES (?, ?, 0, ?)")?
                .execute((&lease.key, id, now()))?;
            Ok((id, 0))
        })?;
        Ok(SqliteIngest {
            lease,
            id,
            size,
            sound: true,
        })
    }

    /// Does `work` with the ingest on the pool; it is unsound unless that ends well.
    async fn run<T: Send + 'static>(
        &mut self,
        operation: &'static str,
        work: impl FnOnce(&Lease, i64, u64) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let (lease, id, size) = (Arc::clone(&self.lease), self.id, self.size);
        if !self.sound {
            let advice = "an earlier write did not end; begin the ingest again";
            return Err(Error::precondition(advice)).during(operation, &lease.key);
        }
        self.sound = false;
        let done = pool::run(move || work(&lease, id, size)).await;
        self.sound = done.is_ok();
        done.during(operation, &self.lease.key)
    }
}

#[async_trait]
impl Ingest for SqliteIngest {
    fn key(&self) -> &str {
        &self.lease.key
    }

    fn offset(&self) -> u64 {
        self.size
    }

    async fn append(&mut self, data: Bytes) -> Result<()> {
        let grown = self.size + data.len() as u64;
        self.run("append", move |lease, id, mut at| {
            lease.engine.write(false, |tx| {
                for piece in data.chunks(PIECE) {
                    tx.prepare_cached("INSERT INTO pieces VALUES (?, ?, ?)")?
                        .execute((id, integer(at), piece))?;
                    at += piece.len() as u64;
                }
                set_size(tx, &lease.key, at)
            })
        })
        .await?;
        self.size = grown;
        Ok(())
    }

    async fn read_back(&mut self, offset: u64, length: usize) -> Result<Bytes> {
        self.run("read back", move |lease, id, size| {
            lease.engine.read(|db| read(db, id, size, offset, length))
        })
        .await
    }

    async fn rewind(&mut self) -> Result<()> {
        self.run("rewind", |lease, id, _| {
            lease.engine.write(false, |tx| {
                remove_pieces(tx, id)?;
                set_size(tx, &lease.key, 0)
            })
        })
        .await?;
        self.size = 0;
        Ok(())
    }

    /// The blob, its records and the end of the ingest are one transaction.
    async fn publish(
        mut self: Box<Self>,
        verified: &Verified,
        batch: &Batch,
        durability: Durability,
    ) -> Result<bool> {
        verified.check(&self.lease.key, self.size)?;
        let (digest, batch) = (verified.digest().to_string(), batch.clone());
        self.run("publish", move |lease, id, size| {
            lease.engine.write(durability != Durability::Relaxed, |tx| {
                apply(tx, &batch)?;
                let added = tx
                    .prepare_cached("INSERT OR IGNORE INTO blobs VALUES (?, ?, ?)")?
                    .execute((digest, integer(size), id))?;
                if added == 0 {
                    remove_pieces(tx, id)?;
                }
                tx.execute("DELETE FROM ingests WHERE key = ?", (&lease.key,))?;
                Ok(true)
            })
        })
        .await
    }
}

/// Up to `length` bytes from `offset` of the `size` bytes under `id`.
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
    match found.len() as u64 == end - offset {
        true => Ok(found.into()),
        false => Err(Failed(Error::not_found("it was removed while it was read"))),
    }
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

/// Milliseconds since 1970.
fn now() -> i64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

/// SQLite has no unsigned numbers; no length comes near the end of the signed ones.
pub(crate) fn integer(length: u64) -> i64 {
    i64::try_from(length).unwrap_or(i64::MAX)
}

pub(crate) fn length_of(integer: i64) -> u64 {
    u64::try_from(integer).unwrap_or_default()
}
