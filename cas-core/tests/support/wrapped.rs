//! A content store that misbehaves in one place.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use cas_core::capability::Capabilities;
use cas_core::content::{Durability, Entry, IngestStatus, Stat, Verified, Version};
use cas_core::records::Batch;
use cas_core::{BlobReader, ContentStore, Digest, Error, ErrorKind, Ingest, Result, Store};

/// What is wrong with a blob.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flaw {
    /// A bit of the first byte is flipped.
    First,
    /// A bit of the last byte is flipped.
    Last,
    /// The last byte is missing, but the size is reported as before.
    Cut,
    /// Opening the blob fails.
    Opens(ErrorKind),
    /// The blob can be opened, but reading its bytes fails.
    Reads(ErrorKind),
}

type Hook = Box<dyn Fn(&str) + Send + Sync>;

/// Content with a damaged blob, a wrong list of ingests, and a hook.
pub(crate) struct Wrapped {
    inner: Arc<dyn ContentStore>,
    pub(crate) damaged: Option<(Digest, Flaw)>,
    /// Whether the damaged blob has its right bytes again.
    pub(crate) mended: Arc<AtomicBool>,
    /// The only ingest that is listed.
    pub(crate) listed: Option<IngestStatus>,
    /// Called before an ingest is discarded.
    pub(crate) discarding: Option<Hook>,
    /// Whether every blob is reported as unchanged.
    pub(crate) unchanged: bool,
    /// Whether the entries of a list are digests only, as in a directory.
    pub(crate) only_digests: bool,
    /// Whether ingests adopt files, and return at most this number of their bytes at once.
    pub(crate) pieces: Option<usize>,
}

impl Wrapped {
    pub(crate) fn new(store: &Store) -> Self {
        Wrapped {
            inner: store.content.clone(),
            damaged: None,
            mended: Arc::default(),
            listed: None,
            discarding: None,
            unchanged: false,
            only_digests: false,
            pieces: None,
        }
    }

    /// Returns `store` with this content.
    pub(crate) fn of(self, store: &Store) -> Store {
        Store {
            content: Arc::new(self),
            ..store.clone()
        }
    }
}

#[async_trait]
impl ContentStore for Wrapped {
    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }
    async fn stat(&self, digest: &Digest) -> Result<Option<Stat>> {
        self.inner.stat(digest).await
    }
    async fn open(&self, digest: &Digest) -> Result<Option<Arc<dyn BlobReader>>> {
        let reader = self.inner.open(digest).await?;
        let damaged = self.damaged.filter(|(damaged, _)| damaged == digest);
        match damaged.filter(|_| !self.mended.load(Ordering::Relaxed)) {
            Some((_, Flaw::Opens(kind))) => Err(Error::new(kind, "a planted error")),
            Some((_, flaw)) => Ok(reader.map(|reader| Arc::new(Bad(reader, flaw)) as _)),
            None => Ok(reader),
        }
    }
    async fn begin(&self, key: &str) -> Result<Box<dyn Ingest>> {
        let inner = self.inner.begin(key).await?;
        Ok(match self.pieces {
            Some(length) => Box::new(InPieces(inner, length)),
            None => inner,
        })
    }
    async fn ingests(&self) -> Result<Vec<IngestStatus>> {
        match &self.listed {
            Some(listed) => Ok(vec![listed.clone()]),
            None => self.inner.ingests().await,
        }
    }
    async fn discard(&self, key: &str) -> Result<bool> {
        if let Some(hook) = &self.discarding {
            hook(key);
        }
        self.inner.discard(key).await
    }
    async fn remove_version(&self, digest: &Digest, version: Version) -> Result<bool> {
        self.inner.remove_version(digest, version).await
    }
    async fn is_unchanged(&self, _: &Stat) -> Result<bool> {
        Ok(self.unchanged)
    }
    async fn list(&self, after: Option<&Digest>, limit: usize) -> Result<Vec<Stat>> {
        self.inner.list(after, limit).await
    }
    async fn entries(&self, after: Option<&Digest>, limit: usize) -> Result<Vec<Entry>> {
        let page = self.inner.entries(after, limit).await?;
        let only_digests = page.iter().map(|entry| Entry::Digest(*entry.digest()));
        Ok(match self.only_digests {
            true => only_digests.collect(),
            false => page,
        })
    }
    async fn flush(&self) -> Result<()> {
        self.inner.flush().await
    }
}

struct InPieces(Box<dyn Ingest>, usize);

#[async_trait]
impl Ingest for InPieces {
    fn key(&self) -> &str {
        self.0.key()
    }
    fn offset(&self) -> u64 {
        self.0.offset()
    }
    async fn append(&mut self, data: Bytes) -> Result<()> {
        self.0.append(data).await
    }
    async fn adopt(&mut self, file: &Arc<File>, offset: u64, length: usize) -> Result<usize> {
        let mut data = vec![0; length];
        let read = file.read_at(&mut data, offset)?;
        data.truncate(read);
        self.0.append(data.into()).await?;
        Ok(read)
    }
    async fn read_back(&mut self, offset: u64, length: usize) -> Result<Bytes> {
        self.0.read_back(offset, length.min(self.1)).await
    }
    async fn rewind(&mut self) -> Result<()> {
        self.0.rewind().await
    }
    async fn publish(
        self: Box<Self>,
        verified: &Verified,
        batch: &Batch,
        durability: Durability,
    ) -> Result<bool> {
        self.0.publish(verified, batch, durability).await
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
        let is_last = offset + piece.len() as u64 == self.size();
        match self.1 {
            Flaw::First if offset == 0 => piece[0] ^= 1,
            Flaw::Last if is_last && !piece.is_empty() => *piece.last_mut().unwrap() ^= 1,
            Flaw::Cut if is_last => drop(piece.pop()),
            Flaw::Reads(kind) => return Err(Error::new(kind, "a planted error")),
            _ => {}
        }
        Ok(piece.into())
    }
}
