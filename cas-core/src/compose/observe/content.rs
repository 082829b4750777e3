//! Wrappers of content stores, ingests and readers that report each asynchronous call.

use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use async_trait::async_trait;
use bytes::Bytes;

use super::{Operation, Watch};
use crate::capability::Capabilities;
use crate::content::{
    BlobReader, ContentStore, Durability, Entry, Ingest, IngestStatus, Stat, Verified, Version,
};
use crate::digest::Digest;
use crate::error::Result;
use crate::records::Batch;

pub(super) struct Content {
    inner: Arc<dyn ContentStore>,
    watch: Watch,
}

impl Content {
    pub(super) fn new(inner: Arc<dyn ContentStore>, watch: Watch) -> Self {
        Content { inner, watch }
    }
}

#[async_trait]
impl ContentStore for Content {
    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }

    async fn stat(&self, digest: &Digest) -> Result<Option<Stat>> {
        let call = self.inner.stat(digest);
        self.watch.call(Operation::Stat, call).await
    }

    async fn open(&self, digest: &Digest) -> Result<Option<Arc<dyn BlobReader>>> {
        let call = self.inner.open(digest);
        let found = self.watch.call(Operation::Open, call).await?;
        Ok(found.map(|inner| {
            let watch = self.watch.clone();
            Arc::new(Reader { inner, watch }) as Arc<dyn BlobReader>
        }))
    }

    async fn begin(&self, key: &str) -> Result<Box<dyn Ingest>> {
        let call = self.inner.begin(key);
        let inner = self.watch.call(Operation::Begin, call).await?;
        let watch = self.watch.clone();
        Ok(Box::new(Watched { inner, watch }))
    }

    async fn ingests(&self) -> Result<Vec<IngestStatus>> {
        let call = self.inner.ingests();
        self.watch.call(Operation::Ingests, call).await
    }

    async fn discard(&self, key: &str) -> Result<bool> {
        let call = self.inner.discard(key);
        self.watch.call(Operation::Discard, call).await
    }

    async fn remove_version(&self, digest: &Digest, version: Version) -> Result<bool> {
        let call = self.inner.remove_version(digest, version);
        self.watch.call(Operation::RemoveVersion, call).await
    }

    async fn remove_versions(&self, blobs: &[(Digest, Version)], batch: &Batch) -> Result<bool> {
        let call = self.inner.remove_versions(blobs, batch);
        self.watch.call(Operation::RemoveVersions, call).await
    }

    fn commits_records(&self, size: u64) -> bool {
        self.inner.commits_records(size)
    }

    async fn list(&self, after: Option<&Digest>, limit: usize) -> Result<Vec<Stat>> {
        let call = self.inner.list(after, limit);
        self.watch.call(Operation::List, call).await
    }

    async fn entries(&self, after: Option<&Digest>, limit: usize) -> Result<Vec<Entry>> {
        let call = self.inner.entries(after, limit);
        self.watch.call(Operation::List, call).await
    }

    async fn is_unchanged(&self, stat: &Stat) -> Result<bool> {
        let call = self.inner.is_unchanged(stat);
        self.watch.call(Operation::IsUnchanged, call).await
    }

    async fn flush(&self) -> Result<()> {
        let call = self.inner.flush();
        self.watch.call(Operation::Flush, call).await
    }

    async fn compact(&self) -> Result<()> {
        let call = self.inner.compact();
        self.watch.call(Operation::Compact, call).await
    }

    async fn leftovers(&self, before: SystemTime, remove: bool) -> Result<Vec<u64>> {
        let call = self.inner.leftovers(before, remove);
        self.watch.call(Operation::Leftovers, call).await
    }
}

struct Reader {
    inner: Arc<dyn BlobReader>,
    watch: Watch,
}

#[async_trait]
impl BlobReader for Reader {
    fn size(&self) -> u64 {
        self.inner.size()
    }

    async fn read_at(&self, offset: u64, length: usize) -> Result<Bytes> {
        let call = self.inner.read_at(offset, length);
        self.watch.moves(Operation::ReadAt, call, Bytes::len).await
    }

    /// What is read through the file is not reported.
    fn file(&self) -> Option<&Arc<File>> {
        self.inner.file()
    }

    fn path(&self) -> Option<PathBuf> {
        self.inner.path()
    }
}

struct Watched {
    inner: Box<dyn Ingest>,
    watch: Watch,
}

#[async_trait]
impl Ingest for Watched {
    fn key(&self) -> &str {
        self.inner.key()
    }

    fn offset(&self) -> u64 {
        self.inner.offset()
    }

    async fn append(&mut self, data: Bytes) -> Result<()> {
        let length = data.len();
        let call = self.inner.append(data);
        self.watch.moves(Operation::Append, call, |()| length).await
    }

    async fn adopt(&mut self, file: &Arc<File>, offset: u64, length: usize) -> Result<usize> {
        let call = self.inner.adopt(file, offset, length);
        self.watch
            .moves(Operation::Adopt, call, |adopted| *adopted)
            .await
    }

    async fn read_back(&mut self, offset: u64, length: usize) -> Result<Bytes> {
        let call = self.inner.read_back(offset, length);
        self.watch
            .moves(Operation::ReadBack, call, Bytes::len)
            .await
    }

    async fn rewind(&mut self) -> Result<()> {
        let call = self.inner.rewind();
        self.watch.call(Operation::Rewind, call).await
    }

    async fn publish(
        self: Box<Self>,
        verified: &Verified,
        batch: &Batch,
        durability: Durability,
    ) -> Result<bool> {
        let size = usize::try_from(verified.size()).unwrap_or(usize::MAX);
        let call = self.inner.publish(verified, batch, durability);
        self.watch.moves(Operation::Publish, call, |_| size).await
    }
}
