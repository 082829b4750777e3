//! A store in which one blob is damaged.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use cas_core::capability::Capabilities;
use cas_core::content::{IngestStatus, Stat, Version};
use cas_core::testing::memory::MemoryStore;
use cas_core::{BlobReader, ContentStore, Digest, Ingest, Result};

/// The damage.
#[derive(Clone, Copy)]
pub(crate) enum Flaw {
    /// One bit of the last byte is flipped.
    Flipped,
    /// The last byte is missing, but the size is reported as before.
    Cut,
}

/// The store, the damaged blob, and the damage.
pub(crate) struct Flawed(
    pub(crate) Arc<MemoryStore>,
    pub(crate) Digest,
    pub(crate) Flaw,
);

#[async_trait]
impl ContentStore for Flawed {
    fn capabilities(&self) -> Capabilities {
        ContentStore::capabilities(&*self.0)
    }

    async fn stat(&self, digest: &Digest) -> Result<Option<Stat>> {
        self.0.stat(digest).await
    }

    async fn open(&self, digest: &Digest) -> Result<Option<Arc<dyn BlobReader>>> {
        let reader = self.0.open(digest).await?;
        if *digest != self.1 {
            return Ok(reader);
        }
        Ok(reader.map(|reader| Arc::new(Bad(reader, self.2)) as Arc<dyn BlobReader>))
    }

    async fn begin(&self, key: &str) -> Result<Box<dyn Ingest>> {
        self.0.begin(key).await
    }

    async fn ingests(&self) -> Result<Vec<IngestStatus>> {
        self.0.ingests().await
    }

    async fn discard(&self, key: &str) -> Result<bool> {
        self.0.discard(key).await
    }

    async fn remove_version(&self, digest: &Digest, version: Version) -> Result<bool> {
        self.0.remove_version(digest, version).await
    }

    async fn list(&self, after: Option<&Digest>, limit: usize) -> Result<Vec<Stat>> {
        self.0.list(after, limit).await
    }

    async fn flush(&self) -> Result<()> {
        ContentStore::flush(&*self.0).await
    }
}

struct Bad(Arc<dyn BlobReader>, Flaw);

#[async_trait]
impl BlobReader for Bad {
    fn size(&self) -> u64 {
        self.0.size()
    }

    async fn read_at(&self, offset: u64, length: usize) -> Result<Bytes> {
        let mut piece = self.0.read_at(offset, length).await?.to_vec();
        let ends = !piece.is_empty() && offset + piece.len() as u64 == self.0.size();
        match (ends, self.1) {
            (true, Flaw::Flipped) => *piece.last_mut().unwrap() ^= 1,
            (true, Flaw::Cut) => drop(piece.pop()),
            (false, _) => {}
        }
        Ok(piece.into())
    }
}
