//! Blobs as an object store keeps them: uploads that never change, and pointers from digests to
//! uploads.

use std::collections::{BTreeMap, HashMap};
use std::ops::Bound;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};

use super::StrictStore;
use super::ingest::{StrictIngest, piece};
use crate::capability::Capabilities;
use crate::content::{BlobReader, ContentStore, Ingest, IngestStatus, Stat, Version, check_key};
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::pool::give_way;
use crate::sync::lock;

/// The uploads, and the digests that point at them.
#[derive(Default)]
pub(super) struct Bucket {
    uploads: HashMap<u64, Arc<[Bytes]>>,
    pointers: BTreeMap<Digest, Pointer>,
    made: u64,
}

#[derive(Clone, Copy)]
struct Pointer {
    upload: u64,
    size: u64,
}

impl Pointer {
    /// An upload never changes, so its number is the version of the blob.
    fn stat(self, digest: &Digest) -> Stat {
        Stat {
            digest: *digest,
            size: self.size,
            version: Version(self.upload),
        }
    }
}

impl StrictStore {
    fn pointer(&self, digest: &Digest) -> Option<Pointer> {
        lock(&self.0.bucket).pointers.get(digest).copied()
    }

    /// If the digest points to an upload already, does nothing. Otherwise uploads the bytes under a
    /// new name, and points the digest to this upload. If another writer was faster, removes the
    /// new upload instead.
    pub(super) async fn upload(&self, digest: Digest, size: u64, parts: Vec<Bytes>) {
        give_way().await;
        if self.pointer(&digest).is_some() {
            return;
        }
        let upload = {
            let mut bucket = lock(&self.0.bucket);
            bucket.made += 1;
            let upload = bucket.made;
            bucket.uploads.insert(upload, parts.into());
            upload
        };
        give_way().await;
        let pointer = Pointer { upload, size };
        let winner = lock(&self.0.bucket)
            .pointers
            .entry(digest)
            .or_insert(pointer)
            .upload;
        give_way().await;
        if winner != upload {
            lock(&self.0.bucket).uploads.remove(&upload);
        }
    }
}

#[async_trait]
impl ContentStore for StrictStore {
    fn capabilities(&self) -> Capabilities {
        StrictStore::CAPABILITIES
    }

    async fn stat(&self, digest: &Digest) -> Result<Option<Stat>> {
        give_way().await;
        Ok(self.pointer(digest).map(|pointer| pointer.stat(digest)))
    }

    async fn open(&self, digest: &Digest) -> Result<Option<Arc<dyn BlobReader>>> {
        give_way().await;
        let Some(pointer) = self.pointer(digest) else {
            return Ok(None);
        };
        Ok(Some(Arc::new(StrictReader {
            store: self.clone(),
            digest: *digest,
            pointer,
        })))
    }

    async fn begin(&self, key: &str) -> Result<Box<dyn Ingest>> {
        check_key(key)?;
        give_way().await;
        Ok(Box::new(StrictIngest::begin(self.clone(), key)?))
    }

    async fn ingests(&self) -> Result<Vec<IngestStatus>> {
        give_way().await;
        let uploads = lock(&self.0.uploads);
        Ok(uploads.iter().map(|(key, slot)| slot.status(key)).collect())
    }

    async fn discard(&self, key: &str) -> Result<bool> {
        give_way().await;
        StrictIngest::discard(self, key)
    }

    async fn remove_version(&self, digest: &Digest, version: Version) -> Result<bool> {
        give_way().await;
        {
            let mut bucket = lock(&self.0.bucket);
            let found = bucket.pointers.get(digest).map(|pointer| pointer.upload);
            if found != Some(version.0) {
                return Ok(false);
            }
            bucket.pointers.remove(digest);
        }
        give_way().await;
        lock(&self.0.bucket).uploads.remove(&version.0);
        Ok(true)
    }

    /// Reads one blob at a time, so the first may be gone when the last is read.
    async fn list(&self, after: Option<&Digest>, limit: usize) -> Result<Vec<Stat>> {
        let mut page: Vec<Stat> = Vec::new();
        while page.len() < limit {
            let cursor = page.last().map(|stat| stat.digest).or(after.copied());
            let from = cursor.map_or(Bound::Unbounded, Bound::Excluded);
            let next = lock(&self.0.bucket)
                .pointers
                .range((from, Bound::Unbounded))
                .next()
                .map(|(digest, pointer)| pointer.stat(digest));
            give_way().await;
            match next {
                Some(stat) => page.push(stat),
                None => break,
            }
        }
        Ok(page)
    }

    async fn flush(&self) -> Result<()> {
        give_way().await;
        Ok(())
    }
}

struct StrictReader {
    store: StrictStore,
    digest: Digest,
    pointer: Pointer,
}

#[async_trait]
impl BlobReader for StrictReader {
    fn size(&self) -> u64 {
        self.pointer.size
    }

    async fn read_at(&self, offset: u64, length: usize) -> Result<Bytes> {
        let wanted = self.pointer.size.saturating_sub(offset).min(length as u64);
        let mut data = BytesMut::new();
        while (data.len() as u64) < wanted {
            give_way().await;
            let parts = lock(&self.store.0.bucket)
                .uploads
                .get(&self.pointer.upload)
                .cloned();
            let parts = parts.ok_or_else(|| {
                Error::not_found("the blob was removed while it was read; store it again")
                    .operation("read")
                    .subject(self.digest)
            })?;
            let left = length - data.len();
            data.extend_from_slice(&piece(&parts, offset + data.len() as u64, left));
        }
        Ok(data.freeze())
    }
}
