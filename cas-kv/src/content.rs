//! Blobs and ingests, through the interface of the content store.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use cas_core::content::{Durability, IngestStatus, Stat, Version, check_key};
use cas_core::records::Batch;
use cas_core::sync::lock;
use cas_core::{BlobReader, Capabilities, ContentStore, Context, Digest, Ingest, Result, pool};

use crate::CAPABILITIES;
use crate::batch::{apply, check, value_bytes};
use crate::body::discard;
use crate::engine::BlobEntry;
use crate::ingest::KvIngest;
use crate::ingest_lock::IngestLock;
use crate::job::{Change, weight};
use crate::kv::Kv;
use crate::reader::Reader;
use crate::tx::Tx;

/// The content store.
pub(crate) struct KvContent(pub(crate) Arc<Kv>);

impl KvContent {
    fn find(&self, digest: &Digest) -> Result<Option<Stat>> {
        let found = self.0.read(|view| view.find_blob(digest))?;
        Ok(found.map(|found| stat(*digest, found)))
    }

    /// Removes blobs that still have the given versions and applies the batch, in one transaction.
    /// Returns the number of removed blobs.
    async fn remove_all(&self, blobs: Vec<(Digest, Version)>, batch: Batch) -> Result<usize> {
        let bytes = value_bytes(&batch);
        let change = Change {
            state: (),
            weight: weight(blobs.len(), bytes),
            low_priority: true,
            durability: Durability::Relaxed,
        };
        if bytes > 0 && !batch.reclaims() {
            self.0.claim_space(bytes)?;
        }
        let kv = Arc::clone(&self.0);
        let work = move |(): &mut (), tx: &mut Tx<'_>| {
            check(tx, &batch)?;
            let digests: Vec<&Digest> = blobs.iter().map(|(digest, _)| digest).collect();
            let found = tx.inner.find_blobs(&digests)?;
            let (mut removed, mut freed, mut left) = (Vec::with_capacity(blobs.len()), 0, false);
            for ((digest, version), found) in blobs.iter().zip(found) {
                if let Some(found) = found.filter(|found| found.number == version.0) {
                    left |= found.in_rows() && tx.inner.remove_rows(found)?;
                    freed += kv.engine.footprint(found.size);
                    removed.push(digest);
                }
            }
            tx.inner.remove_blobs(&removed)?;
            tx.removed += freed;
            apply(tx, &batch)?;
            Ok((removed.len(), freed, left))
        };
        let (removed, freed, left) = self.0.submit(change, work).await?;
        self.0.engine.space().add_removed(freed);
        if left {
            let kv = Arc::clone(&self.0);
            pool::run(move || kv.engine.finish_removals()).await?;
        }
        Ok(removed)
    }
}

fn stat(digest: Digest, found: BlobEntry) -> Stat {
    Stat {
        digest,
        size: found.size,
        version: Version(found.number),
    }
}

#[async_trait]
impl ContentStore for KvContent {
    fn capabilities(&self) -> Capabilities {
        CAPABILITIES
    }

    async fn stat(&self, digest: &Digest) -> Result<Option<Stat>> {
        match self.find(digest) {
            Ok(found) => Ok(found),
            Err(error) => Err(error).during("stat", digest),
        }
    }

    async fn open(&self, digest: &Digest) -> Result<Option<Arc<dyn BlobReader>>> {
        let found = self.0.read(|view| view.open_blob(digest));
        Ok(found.during("open", digest)?.map(|(found, bytes)| {
            Arc::new(Reader {
                kv: Arc::clone(&self.0),
                digest: *digest,
                number: found.number,
                size: found.size,
                inline: (!found.in_rows()).then_some(bytes),
            }) as Arc<dyn BlobReader>
        }))
    }

    async fn begin(&self, key: &str) -> Result<Box<dyn Ingest>> {
        check_key(key)?;
        self.0.check_writable().during("begin ingest", key)?;
        let ingest = KvIngest::begin(&self.0, key).during("begin ingest", key)?;
        Ok(Box::new(ingest))
    }

    async fn ingests(&self) -> Result<Vec<IngestStatus>> {
        let stored = self.0.read(|view| view.ingests())?.into_iter();
        let mut found: BTreeMap<String, _> = stored
            .map(|(key, ingest)| {
                let updated_at = SystemTime::UNIX_EPOCH + Duration::from_millis(ingest.millis);
                (key, (ingest.offset, updated_at))
            })
            .collect();
        // Open ingests have bytes in memory that the engine does not have.
        found.extend(lock(&self.0.open_ingests).clone());
        let status = |(key, (offset, updated_at))| IngestStatus {
            key,
            offset,
            updated_at,
        };
        Ok(found.into_iter().map(status).collect())
    }

    async fn discard(&self, key: &str) -> Result<bool> {
        check_key(key)?;
        let discarded = async {
            let lock = IngestLock::acquire(&self.0, key)?;
            if self.0.read(|view| view.ingest(key))?.is_none() {
                return Ok(false);
            }
            let (kv, owned) = (Arc::clone(&self.0), key.to_owned());
            pool::run(move || {
                let _lock = lock;
                discard(&kv, &owned)
            })
            .await
        };
        discarded.await.during("discard ingest", key)
    }

    async fn remove_version(&self, digest: &Digest, version: Version) -> Result<bool> {
        let found = self.find(digest).during("remove", digest)?;
        if found.is_none_or(|found| found.version != version) {
            return Ok(false);
        }
        self.remove_all(vec![(*digest, version)], Batch::new())
            .await
            .map(|removed| removed > 0)
            .during("remove", digest)
    }

    async fn remove_versions(&self, blobs: &[(Digest, Version)], batch: &Batch) -> Result<bool> {
        self.remove_all(blobs.to_vec(), batch.clone())
            .await
            .map(|_| true)
            .map_err(|error| error.operation("remove blobs"))
    }

    async fn list(&self, after: Option<&Digest>, limit: usize) -> Result<Vec<Stat>> {
        let found = self.0.read(|view| view.list_blobs(after, limit))?;
        let stats = found.into_iter().map(|(digest, found)| stat(digest, found));
        Ok(stats.collect())
    }

    async fn flush(&self) -> Result<()> {
        let kv = Arc::clone(&self.0);
        pool::run(move || kv.engine.sync()).await
    }

    async fn compact(&self) -> Result<()> {
        let kv = Arc::clone(&self.0);
        pool::run(move || kv.compact()).await
    }
}
