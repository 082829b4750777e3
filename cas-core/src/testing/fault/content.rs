//! Content and ingests that fail according to a plan.

use std::fs::File;
use std::sync::Arc;
use std::time::SystemTime;

use async_trait::async_trait;
use bytes::Bytes;

use super::Plan;
use crate::capability::Capabilities;
use crate::content::{
    BlobReader, ContentStore, Durability, Ingest, IngestStatus, Stat, Verified, Version,
};
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::records::Batch;

pub(super) struct Content {
    inner: Arc<dyn ContentStore>,
    plan: Arc<Plan>,
}

impl Content {
    pub(super) fn new(inner: Arc<dyn ContentStore>, plan: &Arc<Plan>) -> Self {
        let plan = Arc::clone(plan);
        Content { inner, plan }
    }
}

#[async_trait]
impl ContentStore for Content {
    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }

    async fn stat(&self, digest: &Digest) -> Result<Option<Stat>> {
        self.inner.stat(digest).await
    }

    async fn open(&self, digest: &Digest) -> Result<Option<Arc<dyn BlobReader>>> {
        self.inner.open(digest).await
    }

    async fn begin(&self, key: &str) -> Result<Box<dyn Ingest>> {
        let inner = self.plan.call("begin", self.inner.begin(key)).await?;
        Ok(Box::new(Writing {
            inner,
            plan: Arc::clone(&self.plan),
            poisoned: false,
        }))
    }

    async fn ingests(&self) -> Result<Vec<IngestStatus>> {
        self.inner.ingests().await
    }

    async fn discard(&self, key: &str) -> Result<bool> {
        self.plan.call("discard", self.inner.discard(key)).await
    }

    async fn remove_version(&self, digest: &Digest, version: Version) -> Result<bool> {
        let call = self.inner.remove_version(digest, version);
        self.plan.call("remove", call).await
    }

    async fn remove_versions(&self, blobs: &[(Digest, Version)], batch: &Batch) -> Result<bool> {
        let call = self.inner.remove_versions(blobs, batch);
        self.plan.call("remove", call).await
    }

    async fn list(&self, after: Option<&Digest>, limit: usize) -> Result<Vec<Stat>> {
        self.inner.list(after, limit).await
    }

    fn commits_records(&self, size: u64) -> bool {
        self.inner.commits_records(size)
    }

    async fn is_unchanged(&self, stat: &Stat) -> Result<bool> {
        self.inner.is_unchanged(stat).await
    }

    async fn compact(&self) -> Result<()> {
        self.plan.call("compact", self.inner.compact()).await
    }

    async fn leftovers(&self, before: SystemTime, remove: bool) -> Result<Vec<u64>> {
        let call = self.inner.leftovers(before, remove);
        match remove {
            true => self.plan.call("leftovers", call).await,
            false => call.await,
        }
    }

    async fn flush(&self) -> Result<()> {
        self.plan.call("flush", self.inner.flush()).await
    }
}

struct Writing {
    inner: Box<dyn Ingest>,
    plan: Arc<Plan>,
    poisoned: bool,
}

impl Writing {
    /// Checks that no call has failed: an ingest accepts no more calls after an error.
    fn check(&self) -> Result<()> {
        if self.poisoned {
            return Err(
                Error::precondition("an earlier write failed; start the ingest again")
                    .subject(self.inner.key()),
            );
        }
        Ok(())
    }
}

#[async_trait]
impl Ingest for Writing {
    fn key(&self) -> &str {
        self.inner.key()
    }

    fn offset(&self) -> u64 {
        self.inner.offset()
    }

    async fn append(&mut self, data: Bytes) -> Result<()> {
        self.check()?;
        let outcome = self.plan.call("append", self.inner.append(data)).await;
        self.poisoned = outcome.is_err();
        outcome
    }

    async fn adopt(&mut self, file: &Arc<File>, offset: u64, length: usize) -> Result<usize> {
        self.check()?;
        let call = self.inner.adopt(file, offset, length);
        let outcome = self.plan.call("adopt", call).await;
        self.poisoned = outcome.is_err();
        outcome
    }

    async fn read_back(&mut self, offset: u64, length: usize) -> Result<Bytes> {
        self.check()?;
        self.inner.read_back(offset, length).await
    }

    async fn rewind(&mut self) -> Result<()> {
        self.check()?;
        let outcome = self.plan.call("rewind", self.inner.rewind()).await;
        self.poisoned = outcome.is_err();
        outcome
    }

    async fn publish(
        self: Box<Self>,
        verified: &Verified,
        batch: &Batch,
        durability: Durability,
    ) -> Result<bool> {
        self.check()?;
        let call = self.inner.publish(verified, batch, durability);
        self.plan.call("publish", call).await
    }
}
