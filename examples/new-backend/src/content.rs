//! Blobs. The table `blobs` maps a digest to an id. The rows of the table `pieces` with this id
//! contain the bytes of the blob.

use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use async_trait::async_trait;
use bytes::Bytes;
use cas_core::content::{Durability, IngestStatus, Stat, Version, check_key};
use cas_core::records::Batch;
use cas_core::{
    BlobReader, Capabilities, ContentStore, Context, Digest, Error, Ingest, Result, pool,
};
use rusqlite::OptionalExtension;

use crate::CAPABILITIES;
use crate::engine::{Engine, number};
use crate::error::Failed;
use crate::ingest::{IngestLock, SqliteIngest, integer, length_of, read, remove_pieces};
use crate::records::apply;

pub(crate) struct SqliteContent(pub(crate) Arc<Engine>);

impl SqliteContent {
    /// Removes blobs that still have the given versions and applies the batch, in one transaction.
    /// Returns the number of removed blobs.
    async fn remove_all(&self, blobs: Vec<(Digest, Version)>, batch: Batch) -> Result<usize> {
        let engine = Arc::clone(&self.0);
        let remove = move || {
            engine.write(Durability::Relaxed, |tx| {
                apply(tx, &batch)?;
                let mut removed = 0;
                for (digest, Version(id)) in &blobs {
                    let gone = tx
                        .prepare_cached("DELETE FROM blobs WHERE digest = ? AND id = ?")?
                        .execute((digest.to_string(), integer(*id)))?;
                    if gone > 0 {
                        remove_pieces(tx, integer(*id))?;
                        removed += 1;
                    }
                }
                Ok(removed)
            })
        };
        pool::run(remove).await
    }
}

#[async_trait]
impl ContentStore for SqliteContent {
    fn capabilities(&self) -> Capabilities {
        CAPABILITIES
    }

    async fn stat(&self, digest: &Digest) -> Result<Option<Stat>> {
        let found = self.0.read(|db| {
            let mut statement = db.prepare_cached("SELECT size, id FROM blobs WHERE digest = ?")?;
            let stat = statement.query_row((digest.to_string(),), |row| {
                Ok(Stat {
                    digest: *digest,
                    size: length_of(row.get(0)?),
                    version: Version(length_of(row.get(1)?)),
                })
            });
            Ok(stat.optional()?)
        });
        found.during("stat", digest)
    }

    async fn open(&self, digest: &Digest) -> Result<Option<Arc<dyn BlobReader>>> {
        let found = self.stat(digest).await?;
        Ok(found.map(|stat| {
            Arc::new(Reader {
                engine: Arc::clone(&self.0),
                stat,
            }) as Arc<dyn BlobReader>
        }))
    }

    async fn begin(&self, key: &str) -> Result<Box<dyn Ingest>> {
        check_key(key)?;
        let lock = IngestLock::acquire(&self.0, key).during("begin ingest", key)?;
        let begun = pool::run(move || SqliteIngest::begin(lock)).await;
        Ok(Box::new(begun.during("begin ingest", key)?))
    }

    async fn ingests(&self) -> Result<Vec<IngestStatus>> {
        self.0.read(|db| {
            let sql = "SELECT key, size, updated FROM ingests ORDER BY key";
            let mut statement = db.prepare_cached(sql)?;
            let statuses = statement.query_map((), |row| {
                Ok(IngestStatus {
                    key: row.get(0)?,
                    offset: length_of(row.get(1)?),
                    updated_at: UNIX_EPOCH + Duration::from_millis(length_of(row.get(2)?)),
                })
            })?;
            Ok(statuses.collect::<Result<_, _>>()?)
        })
    }

    async fn discard(&self, key: &str) -> Result<bool> {
        check_key(key)?;
        let lock = IngestLock::acquire(&self.0, key).during("discard ingest", key)?;
        let discarded = pool::run(move || lock.discard()).await;
        discarded.during("discard ingest", key)
    }

    async fn remove_version(&self, digest: &Digest, version: Version) -> Result<bool> {
        let removed = self
            .remove_all(vec![(*digest, version)], Batch::new())
            .await;
        removed.map(|removed| removed > 0).during("remove", digest)
    }

    async fn remove_versions(&self, blobs: &[(Digest, Version)], batch: &Batch) -> Result<bool> {
        let removed = self.remove_all(blobs.to_vec(), batch.clone()).await;
        removed.map(|_| true)
    }

    async fn list(&self, after: Option<&Digest>, limit: usize) -> Result<Vec<Stat>> {
        // Digests sort like their text, which SQLite compares byte by byte.
        let after = after.map(Digest::to_string).unwrap_or_default();
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        self.0.read(|db| {
            let sql = "SELECT digest, size, id FROM blobs WHERE digest > ? ORDER BY digest LIMIT ?";
            let mut statement = db.prepare_cached(sql)?;
            let mut rows = statement.query((after, limit))?;
            let mut page = Vec::new();
            while let Some(row) = rows.next()? {
                let text: String = row.get(0)?;
                page.push(Stat {
                    digest: text.parse().map_err(Failed::from)?,
                    size: length_of(row.get(1)?),
                    version: Version(length_of(row.get(2)?)),
                });
            }
            Ok(page)
        })
    }

    async fn flush(&self) -> Result<()> {
        let engine = Arc::clone(&self.0);
        // SQLite does not sync a transaction without changes, so change something.
        pool::run(move || engine.write(Durability::Full, |tx| Ok(number(tx).map(drop)?))).await
    }
}

/// Reads a blob. After the blob is removed, reads fail, because its id is never used again.
struct Reader {
    engine: Arc<Engine>,
    stat: Stat,
}

#[async_trait]
impl BlobReader for Reader {
    fn size(&self) -> u64 {
        self.stat.size
    }

    async fn read_at(&self, offset: u64, length: usize) -> Result<Bytes> {
        let (engine, stat) = (Arc::clone(&self.engine), self.stat);
        let id = integer(stat.version.0);
        let work = move || engine.read(|db| read(db, id, stat.size, offset, length));
        pool::run(work)
            .await
            .map_err(|error: Error| error.operation("read").subject(stat.digest))
    }
}
