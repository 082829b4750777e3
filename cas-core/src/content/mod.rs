//! Content: blobs, stored under their digests.
//!
//! # The life of a blob
//!
//! [`ContentStore::begin`] opens an [`Ingest`] under a key that the caller chooses, or resumes an
//! unfinished ingest. [`Ingest::append`] adds bytes. If the `Ingest` is dropped, the store keeps
//! the bytes. [`Ingest::publish`] turns the bytes into a blob. `publish` requires a [`Verified`]
//! token. Only a [`Writer`] creates the token, after it has hashed every byte, so no store can
//! publish bytes that were not checked. From the publish until the removal, [`ContentStore::stat`]
//! finds the blob and [`ContentStore::open`] reads it.
//!
//! A blob has a [`Version`]. A blob that is removed and stored again has another version. A removal
//! names the version that its caller has seen, so a late removal by a slow collector never hits a
//! newer copy. These methods remove blobs:
//!
//! - [`ContentStore::remove_version`] removes one blob if it still has the named version.
//! - [`ContentStore::remove_versions`] removes many blobs for a collection, each only if it still
//!   has the named version. A store that is [`Joint`](Capability::Joint) also commits a batch of
//!   records in the same step. The default implementation calls `remove_version` for each blob, and
//!   leaves the batch to the caller.
//! - [`ContentExt::remove`] removes a blob in whatever version it has. It does not change the
//!   record of the blob, and it ignores leases. Programs that share a store must collect garbage
//!   instead ([`gc::collect`](crate::gc::collect)).

mod ext;
mod hashing;
mod own_ingest;
mod put_reader;
mod sink;
mod verified_reader;
mod writer;

use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use async_trait::async_trait;
use bytes::Bytes;
use serde::{Deserialize, Serialize};

pub use ext::ContentExt;
pub(crate) use ext::{Backoff, WRITER_TIMEOUT, discard_unless_open, hash, read_whole};
pub use own_ingest::OwnIngest;
pub use put_reader::put_reader;
pub use sink::{Sink, write_apart};
pub use verified_reader::VerifiedReader;
pub(crate) use writer::fewer_than_stated;
pub use writer::{Committed, Expected, Verified, Writer};

use crate::capability::{Capabilities, Capability};
use crate::digest::Digest;
use crate::error::{Error, Result, excerpt};
use crate::limit;
use crate::records::Batch;

/// What a publish guarantees when it returns, if the store is [`Durable`](Capability::Durable); see
/// `docs/DURABILITY.md`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Durability {
    /// The bytes and their records are on stable storage.
    #[default]
    Full,
    /// As `Full`, but the publish may wait until several publishes can be synced together.
    Batched,
    /// The blob may be lost in a crash before the next flush. Its bytes are never wrong.
    Relaxed,
}

/// A blob in a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Stat {
    /// Digest of the blob.
    pub digest: Digest,
    /// Length of the blob in bytes.
    pub size: u64,
    /// Version of the blob in this store.
    pub version: Version,
}

/// A blob of a store, as [`ContentStore::entries`] lists it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry {
    /// Only the digest, because the store would have to look up the size and the version.
    Digest(Digest),
    /// The digest, the size and the version.
    Stat(Stat),
}

impl Entry {
    /// Returns the digest of the blob.
    pub fn digest(&self) -> &Digest {
        match self {
            Entry::Digest(digest) => digest,
            Entry::Stat(stat) => &stat.digest,
        }
    }
}

/// Identifies one stored copy of a blob. A store never uses a version twice for the same digest. A
/// blob that is removed and stored again gets a new version.
///
/// A removal names a version, so a late removal by a slow collector never hits a newer copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Version(pub u64);

/// An ingest that is not published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IngestStatus {
    /// The key that the ingest was begun with.
    pub key: String,
    /// The number of bytes that the ingest holds.
    pub offset: u64,
    /// The time of the last [`Ingest::append`] or [`Ingest::adopt`]. A store may report the time of
    /// a later [`ContentStore::begin`] or [`Ingest::rewind`] instead.
    pub updated_at: SystemTime,
}

/// A store of blobs. See the [module](self) for the life of a blob.
///
/// In a local store, `stat` is quick and runs on the caller's thread. `list` reads only one page of
/// blobs, and may also run on the caller's thread. Over a network, `stat` and `list` take as long
/// as a request. Other methods may wait for a disk, and must not block the threads of the async
/// runtime. Every asynchronous method may return errors of the backend, such as `Unavailable` or
/// `Full`, besides the errors that the documentation of the method lists.
#[async_trait]
pub trait ContentStore: Send + Sync + 'static {
    /// Returns what the store promises beyond the requirements of this trait.
    fn capabilities(&self) -> Capabilities;

    /// Returns the size and version of a blob, or `None` if the blob is not in the store.
    async fn stat(&self, digest: &Digest) -> Result<Option<Stat>>;

    /// Returns a reader of the blob, or `None` if the blob is not in the store.
    ///
    /// If the blob is removed while the reader is open, the reader continues or fails. It never
    /// returns other bytes.
    async fn open(&self, digest: &Digest) -> Result<Option<Arc<dyn BlobReader>>>;

    /// Begins an ingest under `key`. If an unfinished ingest has this key, resumes that ingest
    /// after the bytes that it holds.
    ///
    /// # Errors
    /// `Busy` while another writer has the key open; `InvalidArgument` for a key that [`check_key`]
    /// refuses.
    async fn begin(&self, key: &str) -> Result<Box<dyn Ingest>>;

    /// Returns the unfinished ingests, in the order of their keys.
    async fn ingests(&self) -> Result<Vec<IngestStatus>>;

    /// Deletes the unfinished ingest `key`. Returns false if no ingest has this key.
    ///
    /// # Errors
    /// `Busy` while a writer has the ingest open; `InvalidArgument` for a key that [`check_key`]
    /// refuses. Instead of `InvalidArgument`, a store may return false.
    async fn discard(&self, key: &str) -> Result<bool>;

    /// Removes the blob if it still has this version. Returns false if the blob is not in the store
    /// or has another version. The check and the removal are one step, even if others remove or
    /// publish the blob at the same time.
    async fn remove_version(&self, digest: &Digest, version: Version) -> Result<bool>;

    /// Removes the blobs that a collection found unreachable. Skips each blob that is gone or has
    /// another version than the given one.
    ///
    /// A store that is [`Joint`](crate::Capability::Joint) commits the batch in the same step as
    /// the removals, and returns true. A crash before the next [`ContentStore::flush`] may undo the
    /// removals together with the batch. Any other store does not commit the batch, and returns
    /// false. The caller then commits the batch.
    ///
    /// # Errors
    /// Errors of [`Records::commit`](crate::Records::commit) for the batch. After such an error,
    /// nothing is removed.
    async fn remove_versions(&self, blobs: &[(Digest, Version)], _batch: &Batch) -> Result<bool> {
        for (digest, version) in blobs {
            self.remove_version(digest, *version).await?;
        }
        Ok(false)
    }

    /// Returns whether publishing a blob of this size can commit the record of the blob in the same
    /// step. The result of [`Ingest::publish`] states whether the record was committed. If this
    /// method returns false, the caller commits the record before it publishes the blob. In the
    /// other order, a crash in between would leave bytes that have no record, and a collection
    /// never removes such bytes.
    fn commits_records(&self, _size: u64) -> bool {
        self.capabilities().has(Capability::Joint)
    }

    /// Returns at most `limit` blobs in the order of their digests, starting after the digest
    /// `after`, or at the first blob if `after` is `None`.
    ///
    /// A page with fewer than `limit` blobs is the last.
    async fn list(&self, after: Option<&Digest>, limit: usize) -> Result<Vec<Stat>>;

    /// Returns the same blobs as [`ContentStore::list`], for a caller that needs the sizes and
    /// versions of only a few blobs. A store that has to look up the size of each blob for `list`
    /// does not do so here, and returns [`Entry::Digest`].
    async fn entries(&self, after: Option<&Digest>, limit: usize) -> Result<Vec<Entry>> {
        let page = self.list(after, limit).await?;
        Ok(page.into_iter().map(Entry::Stat).collect())
    }

    /// Returns true if the store can tell, without reading the bytes of a blob, that nothing has
    /// changed them since the version in `stat` was stored. The default implementation returns
    /// false. If this method returns false, every job that stores the blob again, such as a pull or
    /// an import, hashes the stored bytes.
    async fn is_unchanged(&self, _stat: &Stat) -> Result<bool> {
        Ok(false)
    }

    /// Makes every blob in the store durable, including blobs that were published as
    /// [`Durability::Relaxed`], and blobs that another process has published but not yet synced.
    async fn flush(&self) -> Result<()>;

    /// Gives the space of removed data back to the file system, if the store keeps many blobs in
    /// one file and the amount of space justifies the work. The amount includes data that an
    /// earlier process removed before it was killed. Every collection that is not a dry run calls
    /// this method at its end. During the call, readers and writers wait only briefly.
    async fn compact(&self) -> Result<()> {
        Ok(())
    }

    /// Returns the sizes, in bytes, of the leftovers that were stored before the time `before`. A
    /// leftover is a file or an object that a killed process wrote, and that belongs to no blob and
    /// no ingest. If no other process can use the store, returns the sizes of all leftovers,
    /// whatever their age. If `remove` is set, removes the leftovers whose sizes are returned. Only
    /// collections and repairs of the whole store set `remove`, not those for one owner or for
    /// chosen blobs.
    async fn leftovers(&self, _before: SystemTime, _remove: bool) -> Result<Vec<u64>> {
        Ok(Vec::new())
    }
}

/// Reads one blob, at any offset and from any number of tasks.
#[async_trait]
pub trait BlobReader: Send + Sync {
    /// Returns the length of the blob in bytes.
    fn size(&self) -> u64;

    /// Returns the `length` bytes from `offset`, fewer if the blob ends earlier, and none if
    /// `offset` is at or beyond the end.
    ///
    /// The bytes are not checked against the digest. [`ContentExt::fetch`], [`VerifiedReader`] and
    /// the functions that transfer or unpack an image check them.
    async fn read_at(&self, offset: u64, length: usize) -> Result<Bytes>;

    /// Returns the blob as a file, or `None` if the store does not keep the blob as a file. The
    /// file offset is shared, so read by position only.
    fn file(&self) -> Option<&Arc<File>> {
        None
    }

    /// Returns the path that the file of the blob had when the reader was opened. Returns `None` if
    /// the store does not keep the blob as a file, or if the path is not known. A program that
    /// writes to the file damages the store. A collection may remove the file.
    fn path(&self) -> Option<PathBuf> {
        None
    }
}

/// A blob that is being written. If this value is dropped, the store keeps the bytes.
/// [`ContentStore::begin`] with the same key then resumes the ingest.
#[async_trait]
pub trait Ingest: Send {
    /// Returns the key that the ingest was begun with.
    fn key(&self) -> &str;

    /// Returns the number of bytes that the ingest holds.
    fn offset(&self) -> u64;

    /// Appends all bytes of `data`. If this fails, the ingest accepts no more bytes.
    async fn append(&mut self, data: Bytes) -> Result<()>;

    /// Appends up to `length` bytes of a file from `offset`, by sharing them with the file or by
    /// copying them within the kernel. Returns the number of appended bytes. The number is 0 at the
    /// end of the file, and also if the store can neither share nor copy the bytes. So a caller
    /// that receives 0 reads from the file, and appends what it has read with [`Ingest::append`].
    ///
    /// # Errors
    /// Errors of the file and of the store. After any error, the ingest accepts no more bytes.
    async fn adopt(&mut self, _file: &Arc<File>, _offset: u64, _length: usize) -> Result<usize> {
        Ok(0)
    }

    /// Returns up to `length` bytes of the ingest, starting at `offset`. A [`Writer`] calls this
    /// method to hash the bytes of a resumed ingest. It also calls this method to hash bytes that
    /// [`Ingest::adopt`] has appended.
    async fn read_back(&mut self, offset: u64, length: usize) -> Result<Bytes>;

    /// Drops all bytes, so that the offset is 0 again.
    async fn rewind(&mut self) -> Result<()>;

    /// Turns the bytes into a blob, and commits `batch` in the same step if the store keeps the
    /// records too.
    ///
    /// Returns true if the store committed the batch. Returns false if the caller must commit the
    /// batch. If the store has the blob already, with the same size, the stored bytes stay, unless
    /// the store finds that they are damaged.
    ///
    /// # Errors
    /// `Internal` if `verified` belongs to another ingest, or states another number of bytes than
    /// the ingest holds; errors of [`Records::commit`](crate::Records::commit) for the batch. If
    /// the batch fails, nothing is published, and the ingest keeps its bytes. After any error, the
    /// caller must begin the ingest again.
    async fn publish(
        self: Box<Self>,
        verified: &Verified,
        batch: &Batch,
        durability: Durability,
    ) -> Result<bool>;
}

/// Checks the key of an ingest: 1 to [`limit::KEY`] bytes, no control characters.
///
/// # Errors
/// `InvalidArgument` for any other key.
pub fn check_key(key: &str) -> Result<()> {
    if key.is_empty() || key.len() > limit::KEY || key.chars().any(char::is_control) {
        return Err(Error::invalid(format!(
            "invalid key: expected 1 to {} bytes without control characters",
            limit::KEY
        ))
        .subject(excerpt(key)));
    }
    Ok(())
}
