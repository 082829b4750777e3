//! Methods of every content store, built on the methods that a backend implements.

use std::thread;
use std::time::Duration;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use tokio::runtime::Handle;
use tokio::time::Instant;

use super::hashing::Hashing;
use super::{
    BlobReader, Committed, ContentStore, Durability, Expected, Stat, VerifiedReader, Version,
    Writer,
};
use crate::descriptor::Descriptor;
use crate::digest::{Algorithm, Digest, DigestPrefix};
use crate::error::{Error, ErrorKind, FETCH_AGAIN, REPAIR_BYTES, Result};
use crate::limit;
use crate::records::Batch;

const PIECE: usize = 1 << 20;
/// Maximum time to wait for another writer of the same blob.
pub(crate) const WRITER_TIMEOUT: Duration = Duration::from_secs(600);

/// Convenience methods of every [`ContentStore`].
#[async_trait]
pub trait ContentExt: ContentStore {
    /// Stores `data` under its SHA-256 digest, without a record. If the store already has the blob,
    /// keeps it if its bytes are intact, and replaces it if they are damaged. Returns the digest.
    ///
    /// # Errors
    /// Errors of [`Writer::begin`] for the ingest whose key is the digest, such as `Busy` while
    /// another writer stores the same blob; errors of the store.
    async fn put(&self, data: Bytes) -> Result<Digest> {
        let digest = Digest::sha256(&data);
        let size = data.len() as u64;
        let stored = stored(self, &digest).await?;
        if stored == Stored::Intact {
            return Ok(digest);
        }
        let expected = Expected::exactly(digest, size);
        let mut writer = Writer::begin(self, &digest.to_string(), expected).await?;
        writer.rewind().await?;
        writer.write(data).await?;
        let committed = commit(self, writer, stored).await?;
        Ok(committed.digest)
    }

    /// Reads a blob and returns the digest of its bytes, or `None` if the blob is not in the store.
    /// If the bytes are damaged, the result differs from `digest`.
    ///
    /// # Errors
    /// `Corrupt` if the store itself finds the damage; `NotFound` if a piece of the blob is missing
    /// in a store that keeps blobs in pieces; errors of the store.
    async fn hash(&self, digest: &Digest) -> Result<Option<Digest>> {
        let Some(reader) = self.open(digest).await? else {
            return Ok(None);
        };
        hash(&*reader, digest.algorithm()).await.map(Some)
    }

    /// Reads a blob and returns whether its bytes have the digest `digest`. Returns false if the
    /// blob or a piece of it is missing.
    ///
    /// # Errors
    /// Errors of the store.
    async fn is_intact(&self, digest: &Digest) -> Result<bool> {
        match self.hash(digest).await {
            Err(error) if matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::NotFound) => {
                Ok(false)
            }
            found => Ok(found? == Some(*digest)),
        }
    }

    /// Removes a blob, whichever version of it is stored. Returns false if the blob is not in the
    /// store. The record of the blob stays. The blob is removed even if a lease keeps it.
    ///
    /// # Errors
    /// Errors of the store.
    async fn remove(&self, digest: &Digest) -> Result<bool> {
        while let Some(stat) = self.stat(digest).await? {
            if self.remove_version(digest, stat.version).await? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Returns a whole document of at most [`limit::DOCUMENT_READ`] bytes, checked against the
    /// descriptor.
    ///
    /// # Errors
    /// `NotFound` if the store does not have the document; `Corrupt` if the stored bytes have
    /// another size or digest than the descriptor states; `OutOfRange` if the descriptor states a
    /// larger size than [`limit::DOCUMENT_READ`]; errors of the store.
    async fn fetch(&self, descriptor: &Descriptor) -> Result<Bytes> {
        fetch(self, descriptor)
            .await
            .map_err(|error| error.operation("read").subject(descriptor.digest))
    }

    /// Returns a reader that streams a blob and verifies it, or `None` if the blob is not in the
    /// store.
    ///
    /// # Errors
    /// Errors of the store.
    async fn read_verified(&self, digest: &Digest) -> Result<Option<VerifiedReader>> {
        let reader = self.open(digest).await?;
        Ok(reader.map(|reader| VerifiedReader::new(reader, *digest)))
    }

    /// Returns blobs whose digests begin with `prefix`. If several blobs match, returns at least
    /// two of them, but not always all. So the caller can tell whether the prefix is unique.
    ///
    /// # Errors
    /// Errors of the store.
    async fn find(&self, prefix: &DigestPrefix) -> Result<Vec<Stat>> {
        let mut found = Vec::new();
        for first in prefix.first() {
            found.extend(self.stat(&first).await?);
            let next = self.list(Some(&first), 2).await?;
            let same = |stat: &Stat| {
                stat.digest.algorithm() == first.algorithm() && prefix.matches(&stat.digest)
            };
            found.extend(next.into_iter().filter(same));
        }
        Ok(found)
    }

    /// Copies and verifies a blob from another store, without its record. If this store already has
    /// the blob, keeps it if its bytes are intact, and replaces it if they are damaged. A copy that
    /// fails before the right bytes are complete removes nothing. Returns the size of the blob in
    /// bytes.
    ///
    /// # Errors
    /// `NotFound` if `from` does not have the blob; `Corrupt` if the blob is damaged in `from`, or
    /// if an interrupted job left wrong bytes in the ingest of the blob; `Busy` while another
    /// writer stores the same blob; errors of both stores.
    async fn copy_from(&self, from: &dyn ContentStore, digest: &Digest) -> Result<u64> {
        let reader = from.open(digest).await?.ok_or_else(|| {
            Error::not_found("the source store does not have the blob; check the digest")
                .operation("copy")
                .subject(digest)
        })?;
        let stored = stored(self, digest).await?;
        if stored == Stored::Intact
            && let Some(stat) = self.stat(digest).await?
        {
            return Ok(stat.size);
        }
        let expected = Expected::exactly(*digest, reader.size());
        let mut writer = Writer::begin(self, &digest.to_string(), expected).await?;
        writer.write_blob(&*reader).await?;
        let committed = commit(self, writer, stored).await;
        if committed
            .as_ref()
            .is_err_and(|error| error.kind() == ErrorKind::Corrupt)
        {
            // The ingest may hold wrong bytes, so it must not be resumed.
            discard_unless_open(self, &digest.to_string()).await?;
        }
        committed.map(|committed| committed.size)
    }

    /// Returns a [`Writer`] for `key`, waiting up to `timeout` while another writer has the key
    /// open.
    ///
    /// # Errors
    /// Errors of [`Writer::begin`]; `Busy` only if the key does not become free within `timeout`.
    async fn begin_or_wait(
        &self,
        key: &str,
        expected: Expected,
        timeout: Duration,
    ) -> Result<Writer> {
        let mut backoff = Backoff::new(timeout);
        loop {
            match Writer::begin(self, key, expected).await {
                Err(error) if error.kind() == ErrorKind::Busy && backoff.wait().await => {}
                outcome => return outcome,
            }
        }
    }
}

impl<S: ContentStore + ?Sized> ContentExt for S {}

/// What a store has of a blob.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Stored {
    Nothing,
    Intact,
    /// The version of the bytes, which are damaged.
    Damaged(Version),
}

/// Returns what the store has of a blob. An intact blob is then durable.
///
/// # Errors
/// Errors of the store.
pub(super) async fn stored(
    content: &(impl ContentStore + ?Sized),
    digest: &Digest,
) -> Result<Stored> {
    let Some(stat) = content.stat(digest).await? else {
        return Ok(Stored::Nothing);
    };
    if content.is_intact(digest).await? {
        // The stored blob may have been published without a sync.
        content.flush().await?;
        return Ok(Stored::Intact);
    }
    Ok(Stored::Damaged(stat.version))
}

/// Publishes what `writer` has written, without a record. Damaged bytes in the store are removed
/// only once the new bytes are complete and verified.
///
/// # Errors
/// Errors of [`Writer::commit`] and of the store.
pub(super) async fn commit(
    content: &(impl ContentStore + ?Sized),
    mut writer: Writer,
    stored: Stored,
) -> Result<Committed> {
    if let Stored::Damaged(version) = stored {
        let verified = writer.verify().await?;
        content.remove_version(verified.digest(), version).await?;
    }
    writer.commit(&Batch::new(), Durability::Full).await
}

/// Deletes an ingest, unless a writer has it open, such as the writer of a job that waited for the
/// key. Returns whether the ingest was deleted.
///
/// # Errors
/// Errors of the store.
pub(crate) async fn discard_unless_open(
    content: &(impl ContentStore + ?Sized),
    key: &str,
) -> Result<bool> {
    match content.discard(key).await {
        Err(error) if error.kind() == ErrorKind::Busy => Ok(false),
        discarded => discarded,
    }
}

/// Waits between attempts, each time longer, until a timeout.
pub(crate) struct Backoff {
    deadline: Instant,
    pause: Duration,
}

impl Backoff {
    pub(crate) fn new(timeout: Duration) -> Self {
        Backoff {
            deadline: Instant::now() + timeout,
            pause: Duration::from_millis(2),
        }
    }

    /// Waits before the next attempt. Returns false immediately if this would exceed the timeout.
    pub(crate) async fn wait(&mut self) -> bool {
        if Instant::now() + self.pause > self.deadline {
            return false;
        }
        match Handle::try_current() {
            Ok(_) => tokio::time::sleep(self.pause).await,
            // Outside of a tokio runtime, there are no timers, so the whole thread sleeps.
            Err(_) => thread::sleep(self.pause),
        }
        self.pause = (self.pause * 2).min(Duration::from_millis(250));
        true
    }
}

/// Reads a blob to its end. Returns the digest of its bytes.
pub(crate) async fn hash(reader: &dyn BlobReader, algorithm: Algorithm) -> Result<Digest> {
    let hashing = Hashing::new(algorithm);
    let mut at = 0;
    while at < reader.size() {
        let piece = reader.read_at(at, PIECE).await?;
        if piece.is_empty() {
            break;
        }
        at += piece.len() as u64;
        hashing.push(piece);
        hashing.keep_up().await;
    }
    Ok(hashing.digest().await)
}

async fn fetch<S: ContentStore + ?Sized>(store: &S, descriptor: &Descriptor) -> Result<Bytes> {
    let expected = descriptor.size;
    limit::check_document(expected)?;
    let reader = store.open(&descriptor.digest).await?;
    let reader =
        reader.ok_or_else(|| Error::not_found("no such blob in the store").advice(FETCH_AGAIN))?;
    if reader.size() != expected {
        let found = reader.size();
        let why = format!("expected {expected} bytes, found {found}");
        return Err(Error::corrupt(why).advice(REPAIR_BYTES));
    }
    let data = read_whole(reader.as_ref()).await?;
    let found = Digest::of(descriptor.digest.algorithm(), &data);
    if found != descriptor.digest {
        let why = format!("the stored blob is damaged: its bytes hash to {found}");
        return Err(Error::corrupt(why).advice(REPAIR_BYTES));
    }
    Ok(data)
}

/// Reads all of a blob that is known to be small.
pub(crate) async fn read_whole(reader: &dyn BlobReader) -> Result<Bytes> {
    let first = reader.read_at(0, PIECE).await?;
    if first.len() as u64 == reader.size() {
        return Ok(first);
    }
    let mut data = BytesMut::from(first);
    while (data.len() as u64) < reader.size() {
        let piece = reader.read_at(data.len() as u64, PIECE).await?;
        if piece.is_empty() {
            break;
        }
        data.extend_from_slice(&piece);
    }
    Ok(data.freeze())
}
