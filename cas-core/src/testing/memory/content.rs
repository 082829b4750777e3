//! Blobs in memory.

use std::collections::{BTreeSet, HashMap};
use std::ops::Bound;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;

use super::ingest::MemoryIngest;
use super::{MemoryStore, read, window, write};
use crate::capability::Capabilities;
use crate::content::{BlobReader, ContentStore, Ingest, IngestStatus, Stat, Version, check_key};
use crate::digest::Digest;
use crate::error::Result;
use crate::records::Batch;
use crate::sync::lock;

/// The blobs: a hash map for the many lookups, and a sorted set for the few listings.
#[derive(Default)]
pub(super) struct BlobMap {
    entries: HashMap<Digest, (Bytes, Version)>,
    order: BTreeSet<Digest>,
    stored: u64,
}

impl BlobMap {
    fn stat(&self, digest: &Digest) -> Option<Stat> {
        self.entries.get(digest).map(|(data, version)| Stat {
            digest: *digest,
            size: data.len() as u64,
            version: *version,
        })
    }

    /// Adds a blob, unless the map has a blob with this digest already.
    pub(super) fn insert(&mut self, digest: Digest, data: Bytes) {
        self.stored += 1;
        let version = Version(self.stored);
        self.entries.entry(digest).or_insert((data, version));
        self.order.insert(digest);
    }

    fn remove(&mut self, digest: &Digest, version: Version) -> bool {
        let found = self.entries.get(digest).map(|(_, found)| *found);
        if found != Some(version) {
            return false;
        }
        self.order.remove(digest);
        self.entries.remove(digest).is_some()
    }

    fn page(&self, after: Option<&Digest>, limit: usize) -> Vec<Stat> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        self.order
            .range((from, Bound::Unbounded))
            .filter_map(|digest| self.stat(digest))
            .take(limit)
            .collect()
    }
}

#[async_trait]
impl ContentStore for MemoryStore {
    fn capabilities(&self) -> Capabilities {
        MemoryStore::CAPABILITIES
    }

    async fn stat(&self, digest: &Digest) -> Result<Option<Stat>> {
        Ok(read(&self.0.blobs).stat(digest))
    }

    async fn open(&self, digest: &Digest) -> Result<Option<Arc<dyn BlobReader>>> {
        let data = read(&self.0.blobs).entries.get(digest).cloned();
        Ok(data.map(|(data, _)| Arc::new(MemoryReader(data)) as Arc<dyn BlobReader>))
    }

    async fn begin(&self, key: &str) -> Result<Box<dyn Ingest>> {
        check_key(key)?;
        let data = lock(&self.0.ingests).open(key)?;
        Ok(Box::new(MemoryIngest::new(self.clone(), key, data)))
    }

    async fn ingests(&self) -> Result<Vec<IngestStatus>> {
        Ok(lock(&self.0.ingests).statuses())
    }

    async fn discard(&self, key: &str) -> Result<bool> {
        lock(&self.0.ingests).discard(key)
    }

    async fn remove_version(&self, digest: &Digest, version: Version) -> Result<bool> {
        Ok(write(&self.0.blobs).remove(digest, version))
    }

    /// The batch and the removals are made in one step, or not at all.
    async fn remove_versions(&self, removed: &[(Digest, Version)], batch: &Batch) -> Result<bool> {
        let mut tables = write(&self.0.tables);
        let mut blobs = write(&self.0.blobs);
        tables.commit(batch)?;
        for (digest, version) in removed {
            blobs.remove(digest, *version);
        }
        Ok(true)
    }

    async fn list(&self, after: Option<&Digest>, limit: usize) -> Result<Vec<Stat>> {
        Ok(read(&self.0.blobs).page(after, limit))
    }

    async fn flush(&self) -> Result<()> {
        Ok(())
    }
}

/// Owns the bytes, so they can still be read after the blob is removed.
struct MemoryReader(Bytes);

#[async_trait]
impl BlobReader for MemoryReader {
    fn size(&self) -> u64 {
        self.0.len() as u64
    }

    async fn read_at(&self, offset: u64, length: usize) -> Result<Bytes> {
        Ok(self.0.slice(window(self.0.len(), offset, length)))
    }
}
