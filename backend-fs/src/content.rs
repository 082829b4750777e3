//! The content store.

use std::io;
use std::sync::Arc;
use std::time::SystemTime;

use async_trait::async_trait;
use cas_core::content::{Entry, IngestStatus, Stat, Version, check_key};
use cas_core::records::Batch;
use cas_core::{
    BlobReader, Capabilities, Capability, ContentStore, Context, Digest, Ingest, Result, pool,
};

use crate::ingest::FsIngest;
use crate::listing::Page;
use crate::reader::Reader;
use crate::shared::Shared;
use crate::staging;

/// The capabilities of an `fs` store.
pub(crate) const CAPABILITIES: Capabilities = Capabilities::of(&[
    Capability::Durable,
    Capability::Resume,
    Capability::Shared,
    Capability::Atomic,
    Capability::Files,
]);

/// The blobs of a store.
pub(crate) struct FsContent(pub(crate) Arc<Shared>);

impl FsContent {
    /// Returns the same as [`Blobs::digests`](crate::blobs::Blobs::digests).
    async fn digests(&self, after: Option<Digest>, limit: usize) -> Result<Page> {
        let known = after.and_then(|after| self.0.blobs.known_digests(&after, limit));
        if let Some(known) = known {
            return Ok(known);
        }
        let shared = Arc::clone(&self.0);
        pool::run(move || Ok(shared.blobs.digests(after.as_ref(), limit)?)).await
    }

    /// Returns the status of at most `limit` blobs, beginning with `digests`. If blobs were removed
    /// meanwhile, fills the page with the blobs that follow.
    async fn list_from(&self, mut digests: Vec<Digest>, limit: usize) -> Result<Vec<Stat>> {
        let mut page = Vec::new();
        loop {
            let wanted = limit - page.len();
            // Reading the status of the files takes most of the time, and two threads can read it
            // at the same time.
            let (first, second) = digests.split_at(digests.len() / 2);
            let (first, second) = tokio::try_join!(self.stats(first), self.stats(second))?;
            page.extend(first.into_iter().chain(second));
            // If a blob was removed meanwhile, the next round fills the page.
            if digests.len() < wanted || page.len() == limit {
                return Ok(page);
            }
            let after = digests.last().copied();
            digests = self.digests(after, limit - page.len()).await?.digests;
        }
    }

    /// Returns the status of each blob. Skips blobs that are absent or not regular files.
    async fn stats(&self, digests: &[Digest]) -> Result<Vec<Stat>> {
        let (shared, digests) = (Arc::clone(&self.0), digests.to_vec());
        pool::run(move || {
            let stats = digests.iter().map(|digest| shared.blobs.stat(digest));
            Ok(stats
                .filter_map(io::Result::transpose)
                .collect::<io::Result<_>>()?)
        })
        .await
    }
}

#[async_trait]
impl ContentStore for FsContent {
    fn capabilities(&self) -> Capabilities {
        CAPABILITIES
    }

    async fn stat(&self, digest: &Digest) -> Result<Option<Stat>> {
        match self.0.blobs.stat(digest) {
            Ok(stat) => Ok(stat),
            Err(error) => Err(error).during("stat", digest),
        }
    }

    async fn open(&self, digest: &Digest) -> Result<Option<Arc<dyn BlobReader>>> {
        let opened = self.0.blobs.open_blob(digest).during("open", digest)?;
        Ok(opened.map(|(file, size)| {
            let reader = Reader {
                file: Arc::new(file),
                size,
                layout: Arc::clone(&self.0.path),
                digest: *digest,
            };
            Arc::new(reader) as Arc<dyn BlobReader>
        }))
    }

    async fn begin(&self, key: &str) -> Result<Box<dyn Ingest>> {
        check_key(key)?;
        let ingest = FsIngest::begin(Arc::clone(&self.0), key);
        Ok(Box::new(ingest.during("begin ingest", key)?))
    }

    async fn ingests(&self) -> Result<Vec<IngestStatus>> {
        let shared = Arc::clone(&self.0);
        pool::run(move || match shared.ingest_dir() {
            Ok(dir) => staging::list(dir),
            // A read-only store has no ingest that could be resumed.
            Err(_) => Ok(Vec::new()),
        })
        .await
    }

    async fn discard(&self, key: &str) -> Result<bool> {
        check_key(key)?;
        let (shared, owned) = (Arc::clone(&self.0), key.to_owned());
        pool::run(move || staging::discard(shared.ingest_dir()?, &owned))
            .await
            .during("discard ingest", key)
    }

    async fn remove_version(&self, digest: &Digest, version: Version) -> Result<bool> {
        // The removal may wait for the lock of another process.
        let (shared, blobs) = (Arc::clone(&self.0), [(*digest, version)]);
        pool::run(move || Ok(shared.remove(&blobs)? > 0)).await
    }

    async fn remove_versions(&self, blobs: &[(Digest, Version)], _batch: &Batch) -> Result<bool> {
        let (shared, blobs) = (Arc::clone(&self.0), blobs.to_vec());
        pool::run(move || shared.remove(&blobs)).await?;
        Ok(false)
    }

    async fn list(&self, after: Option<&Digest>, limit: usize) -> Result<Vec<Stat>> {
        let digests = self.digests(after.copied(), limit).await?.digests;
        self.list_from(digests, limit).await
    }

    /// Returns digests alone if the directory stores the types of its entries. Reading only the
    /// names takes less than half as long as [`FsContent::list`].
    async fn entries(&self, after: Option<&Digest>, limit: usize) -> Result<Vec<Entry>> {
        let page = self.digests(after.copied(), limit).await?;
        if page.is_untyped {
            let page = self.list_from(page.digests, limit).await?;
            return Ok(page.into_iter().map(Entry::Stat).collect());
        }
        Ok(page.digests.into_iter().map(Entry::Digest).collect())
    }

    /// The version is made from the number of the inode and the time of its last change. Only the
    /// kernel sets this time, so a file with the same version is unchanged.
    async fn is_unchanged(&self, stat: &Stat) -> Result<bool> {
        Ok(self.stat(&stat.digest).await? == Some(*stat))
    }

    async fn leftovers(&self, before: SystemTime, remove: bool) -> Result<Vec<u64>> {
        let shared = Arc::clone(&self.0);
        pool::run(move || {
            // Leftover files cannot be removed from a read-only store.
            let Ok(dir) = shared.ingest_dir() else {
                return Ok(Vec::new());
            };
            if remove {
                shared.flush_for_ended()?;
            }
            staging::key_files(dir, before, remove)
        })
        .await
    }

    async fn flush(&self) -> Result<()> {
        let shared = Arc::clone(&self.0);
        pool::run(move || shared.flush()).await
    }
}
