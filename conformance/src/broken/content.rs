//! Content stores with one fault each.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use bytes::Bytes;
use cas_core::content::{Durability, Entry, IngestStatus, Stat, Verified, Version, check_key};
use cas_core::records::Batch;
use cas_core::testing::memory::MemoryStore;
use cas_core::{
    Algorithm, BlobReader, Capabilities, ContentExt, ContentStore, Digest, Error, ErrorKind,
    Ingest, Result, Store,
};

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum ContentFault {
    ForgetsAByteOnResume,
    ListsBackwards,
    HidesTheEmptyBlob,
    RemovesNothing,
    RemovesAnyVersion,
    RemovesBeforeItLooks,
    /// A removal of many blobs also removes the blobs between them.
    RemovesWhatIsBetween,
    AllowsASecondWriter,
    DamagesBlobsOfAPageAndAByte,
    FailsBeyondTheEnd,
    DiscardsTheUnknown,
    TakesAnyKey,
    FoldsKeys,
    TrustsEveryVersion,
    KeepsWhatIsRewound,
    LosesSha512,
    SkipsAfterTheCursor,
    SkipsAnEntry,
    ForgetsAnIngest,
    ReadsShort,
    TakesForeignProofs,
    AdoptsFromTheBeginning,
    CompactsALivingBlob,
    /// A removal of one blob also removes the blobs that were published as `Relaxed` since the last
    /// flush.
    RemovesWhatIsNotFlushed,
}

use ContentFault as Fault;

const MIB: usize = 1 << 20;
/// Minimum number of items for which some engines use another code path.
pub(super) const MANY: usize = 8;

pub(super) struct BrokenContent {
    store: MemoryStore,
    fault: Fault,
    seconds: AtomicUsize,
    /// Blobs that were published with `Durability::Relaxed` since the last flush.
    relaxed: Arc<Mutex<Vec<Digest>>>,
}

impl BrokenContent {
    pub(super) fn new(fault: Fault) -> Self {
        BrokenContent {
            store: MemoryStore::new(),
            fault,
            seconds: AtomicUsize::new(0),
            relaxed: Arc::default(),
        }
    }

    /// Returns a store with this content store, and with the records and images of the store that
    /// it wraps.
    pub(super) fn whole(self) -> Store {
        let store = self.store.clone().with_images();
        Store {
            content: Arc::new(self),
            ..store
        }
    }

    fn hides(&self, stat: &Stat) -> bool {
        match self.fault {
            Fault::HidesTheEmptyBlob => stat.size == 0,
            Fault::LosesSha512 => stat.digest.algorithm() == Algorithm::Sha512,
            _ => false,
        }
    }

    fn key(&self, key: &str) -> String {
        match self.fault {
            Fault::TakesAnyKey if check_key(key).is_err() => "any".to_owned(),
            Fault::FoldsKeys => key.replace('/', "_"),
            _ => key.to_owned(),
        }
    }

    async fn begin_second(&self, key: &str) -> Result<Box<dyn Ingest>> {
        let number = self.seconds.fetch_add(1, Ordering::Relaxed);
        self.store.begin(&format!("{key} {number}")).await
    }
}

#[async_trait]
impl ContentStore for BrokenContent {
    fn capabilities(&self) -> Capabilities {
        ContentStore::capabilities(&self.store)
    }

    async fn stat(&self, digest: &Digest) -> Result<Option<Stat>> {
        let stat = self.store.stat(digest).await?;
        Ok(stat.filter(|stat| !self.hides(stat)))
    }

    async fn is_unchanged(&self, stat: &Stat) -> Result<bool> {
        Ok(self.fault == Fault::TrustsEveryVersion || self.store.is_unchanged(stat).await?)
    }

    async fn open(&self, digest: &Digest) -> Result<Option<Arc<dyn BlobReader>>> {
        let reader = self.store.open(digest).await?;
        let fault = self.fault;
        Ok(reader.map(|reader| Arc::new(BrokenReader { reader, fault }) as _))
    }

    async fn begin(&self, key: &str) -> Result<Box<dyn Ingest>> {
        let mut ingest = match self.store.begin(&self.key(key)).await {
            Err(error)
                if error.kind() == ErrorKind::Busy && self.fault == Fault::AllowsASecondWriter =>
            {
                self.begin_second(key).await?
            }
            outcome => outcome?,
        };
        if self.fault == Fault::ForgetsAByteOnResume && ingest.offset() > 0 {
            let length = usize::try_from(ingest.offset()).unwrap();
            let held = ingest.read_back(0, length).await?;
            ingest.rewind().await?;
            ingest.append(held.slice(..length - 1)).await?;
        }
        Ok(match self.fault {
            Fault::KeepsWhatIsRewound
            | Fault::TakesForeignProofs
            | Fault::AdoptsFromTheBeginning
            | Fault::RemovesWhatIsNotFlushed => Box::new(BrokenIngest {
                ingest,
                hidden: 0,
                fault: self.fault,
                relaxed: Arc::clone(&self.relaxed),
            }),
            _ => ingest,
        })
    }

    async fn ingests(&self) -> Result<Vec<IngestStatus>> {
        let mut ingests = self.store.ingests().await?;
        if self.fault == Fault::ForgetsAnIngest {
            ingests.truncate(2);
        }
        Ok(ingests)
    }

    async fn discard(&self, key: &str) -> Result<bool> {
        let there = self.store.discard(&self.key(key)).await?;
        Ok(there || self.fault == Fault::DiscardsTheUnknown)
    }

    async fn remove_version(&self, digest: &Digest, version: Version) -> Result<bool> {
        match self.fault {
            Fault::RemovesNothing => Ok(self.store.stat(digest).await?.is_some()),
            Fault::RemovesAnyVersion => self.store.remove(digest).await,
            Fault::RemovesWhatIsNotFlushed => {
                let relaxed = std::mem::take(&mut *self.relaxed.lock().unwrap());
                for digest in relaxed {
                    self.store.remove(&digest).await?;
                }
                self.store.remove_version(digest, version).await
            }
            _ => self.store.remove_version(digest, version).await,
        }
    }

    async fn remove_versions(&self, blobs: &[(Digest, Version)], batch: &Batch) -> Result<bool> {
        let first = match self.fault {
            Fault::RemovesBeforeItLooks | Fault::RemovesAnyVersion => blobs,
            _ => &[],
        };
        for (digest, version) in first {
            self.remove_version(digest, *version).await?;
        }
        if self.fault == Fault::RemovesWhatIsBetween && blobs.len() >= MANY {
            let digests = || blobs.iter().map(|(digest, _)| digest);
            let (first, last) = (digests().min(), digests().max());
            for stat in self.store.list(first, usize::MAX).await? {
                if Some(&stat.digest) < last {
                    self.store.remove(&stat.digest).await?;
                }
            }
        }
        let blobs = match self.fault {
            Fault::RemovesNothing => &[],
            _ => blobs,
        };
        self.store.remove_versions(blobs, batch).await
    }

    async fn list(&self, after: Option<&Digest>, limit: usize) -> Result<Vec<Stat>> {
        let mut page = self.store.list(after, limit).await?;
        page.retain(|stat| !self.hides(stat));
        if self.fault == Fault::SkipsAfterTheCursor && after.is_some() && page.len() > 1 {
            page.remove(0);
        }
        if self.fault == Fault::ListsBackwards && limit == usize::MAX {
            page.reverse();
        }
        Ok(page)
    }

    async fn entries(&self, after: Option<&Digest>, limit: usize) -> Result<Vec<Entry>> {
        let mut page = self.list(after, limit).await?;
        if self.fault == Fault::SkipsAnEntry {
            page.pop();
        }
        Ok(page.into_iter().map(Entry::Stat).collect())
    }

    async fn flush(&self) -> Result<()> {
        self.relaxed.lock().unwrap().clear();
        self.store.flush().await
    }

    async fn compact(&self) -> Result<()> {
        if self.fault == Fault::CompactsALivingBlob {
            for stat in self.store.list(None, 1).await? {
                self.store.remove(&stat.digest).await?;
            }
        }
        Ok(())
    }
}

struct BrokenReader {
    reader: Arc<dyn BlobReader>,
    fault: Fault,
}

#[async_trait]
impl BlobReader for BrokenReader {
    fn size(&self) -> u64 {
        self.reader.size()
    }

    async fn read_at(&self, offset: u64, length: usize) -> Result<Bytes> {
        let data = self.reader.read_at(offset, length).await?;
        match self.fault {
            Fault::FailsBeyondTheEnd if offset > self.size() => Err(Error::out_of_range(
                "the offset is beyond the end of the blob",
            )),
            Fault::ReadsShort if length > MIB => Ok(data.slice(..data.len().min(MIB))),
            Fault::DamagesBlobsOfAPageAndAByte if self.size() == 4_097 => {
                Ok(data.iter().map(|byte| byte ^ 1).collect())
            }
            _ => Ok(data),
        }
    }
}

struct BrokenIngest {
    ingest: Box<dyn Ingest>,
    /// Number of bytes that were rewound, but are kept.
    hidden: u64,
    fault: Fault,
    relaxed: Arc<Mutex<Vec<Digest>>>,
}

#[async_trait]
impl Ingest for BrokenIngest {
    fn key(&self) -> &str {
        self.ingest.key()
    }

    fn offset(&self) -> u64 {
        self.ingest.offset() - self.hidden
    }

    async fn append(&mut self, data: Bytes) -> Result<()> {
        self.ingest.append(data).await
    }

    async fn adopt(&mut self, file: &Arc<File>, _offset: u64, length: usize) -> Result<usize> {
        if self.fault != Fault::AdoptsFromTheBeginning {
            return Ok(0);
        }
        let mut data = vec![0; length];
        let read = file.read_at(&mut data, 0)?;
        data.truncate(read);
        self.ingest.append(data.into()).await?;
        Ok(read)
    }

    async fn read_back(&mut self, offset: u64, length: usize) -> Result<Bytes> {
        self.ingest.read_back(offset + self.hidden, length).await
    }

    async fn rewind(&mut self) -> Result<()> {
        if self.fault != Fault::KeepsWhatIsRewound {
            return self.ingest.rewind().await;
        }
        self.hidden = self.ingest.offset();
        Ok(())
    }

    async fn publish(
        self: Box<Self>,
        verified: &Verified,
        batch: &Batch,
        durability: Durability,
    ) -> Result<bool> {
        let ours = verified.check(self.key(), self.offset());
        if self.fault == Fault::TakesForeignProofs && ours.is_err() {
            return Ok(true);
        }
        if durability == Durability::Relaxed {
            self.relaxed.lock().unwrap().push(*verified.digest());
        }
        self.ingest.publish(verified, batch, durability).await
    }
}
