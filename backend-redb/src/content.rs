//! The content store over the file.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use bytes::Bytes;
use cas_core::content::{Durability, IngestStatus, Stat, Version, check_key};
use cas_core::records::Batch;
use cas_core::{
    BlobReader, Capabilities, ContentStore, Context, Digest, Error, Ingest, Result, pool,
};
use redb::ReadableTable;

use crate::body::discard;
use crate::engine::{Engine, lock};
use crate::error::{corrupt, sort};
use crate::group::{Change, weight};
use crate::ingest::RedbIngest;
use crate::lease::Lease;
use crate::reader::Reader;
use crate::records::{apply, bytes, check};
use crate::store::CAPABILITIES;
use crate::tables::{Key, Tables};

/// The blobs of a store.
pub(crate) struct RedbContent(pub(crate) Arc<Engine>);

impl RedbContent {
    fn find(&self, digest: &Digest) -> Result<Option<Stat>> {
        let view = self.0.view()?;
        let found = view.blobs.get(Key::of(digest).bytes()).map_err(sort)?;
        Ok(found.map(|found| stat(*digest, found.value())))
    }

    /// Removes those that are still these versions and applies the batch, in one transaction; how
    /// many were removed.
    async fn remove_all(&self, blobs: Vec<(Digest, Version)>, batch: Batch) -> Result<usize> {
        let brought = bytes(&batch);
        let change = Change {
            state: (),
            weight: weight(blobs.len(), brought),
            patient: true,
            durability: Durability::Relaxed,
        };
        if brought > 0 {
            self.0.space.take(brought)?;
        }
        let work = move |(): &mut (), tables: &mut Tables<'_>| {
            check(tables, &batch)?;
            let (mut removed, mut freed, mut left) = (0, 0, false);
            for (digest, version) in &blobs {
                if let Some(gone) = tables.remove_blob(digest, *version)? {
                    removed += 1;
                    freed += gone.bytes;
                    left |= gone.left;
                }
            }
            apply(tables, &batch)?;
            Ok((removed, freed, left))
        };
        let (removed, freed, left) = self.0.together(change, work).await?;
        self.0.space.give_back(freed);
        if left {
            let engine = Arc::clone(&self.0);
            pool::run(move || engine.reap()).await?;
        }
        Ok(removed)
    }
}

fn stat(digest: Digest, (size, number, _): (u64, u64, &[u8])) -> Stat {
    Stat {
        digest,
        size,
        version: Version(number),
    }
}

#[async_trait]
impl ContentStore for RedbContent {
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
        let view = self.0.view()?;
        let found = view.blobs.get(Key::of(digest).bytes()).map_err(sort);
        Ok(found.during("open", digest)?.map(|found| {
            let (size, number, bytes) = found.value();
            let whole = size == bytes.len() as u64;
            Arc::new(Reader {
                engine: Arc::clone(&self.0),
                digest: *digest,
                number,
                size,
                beside: whole.then(|| Bytes::copy_from_slice(bytes)),
            }) as Arc<dyn BlobReader>
        }))
    }

    async fn begin(&self, key: &str) -> Result<Box<dyn Ingest>> {
        check_key(key)?;
        let ingest = RedbIngest::begin(&self.0, key).during("begin ingest", key)?;
        Ok(Box::new(ingest))
    }

    async fn ingests(&self) -> Result<Vec<IngestStatus>> {
        let mut found = BTreeMap::new();
        let view = self.0.view()?;
        for row in view.ingests.iter().map_err(sort)? {
            let (key, staged) = row.map_err(sort)?;
            let (_, offset, millis) = staged.value();
            let updated_at = SystemTime::UNIX_EPOCH + Duration::from_millis(millis);
            found.insert(key.value().to_owned(), (offset, updated_at));
        }
        // Those who write know more than the file.
        found.extend(lock(&self.0.held).clone());
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
            let lease = Lease::take(&self.0, key)?;
            if self.0.view()?.ingests.get(key).map_err(sort)?.is_none() {
                return Ok(false);
            }
            let (engine, owned) = (Arc::clone(&self.0), key.to_owned());
            pool::run(move || {
                let _held = lease;
                discard(&engine, &owned)
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
        let after = after.map(Key::of);
        let from = match &after {
            Some(after) => Bound::Excluded(after.bytes()),
            None => Bound::Unbounded,
        };
        let view = self.0.view()?;
        let rows = view.blobs.range::<&[u8]>((from, Bound::Unbounded));
        let stats = rows.map_err(sort)?.take(limit).map(|row| {
            let (key, value) = row.map_err(sort)?;
            let digest = Key::digest(key.value());
            let digest = digest.ok_or_else(|| corrupt("the key of a blob is no digest"))?;
            Ok(stat(digest, value.value()))
        });
        stats.collect::<Result<_, Error>>()
    }

    async fn flush(&self) -> Result<()> {
        if !self.0.unsynced() {
            return Ok(());
        }
        let engine = Arc::clone(&self.0);
        pool::run(move || engine.write(Durability::Full, |_| Ok(()))).await
    }
}
