//! Content: blobs under their digests.
//!
//! Bytes enter through an [`Ingest`], which only a [`Writer`] can finish: it hashes what passes
//! and mints the [`Verified`] token that [`Ingest::publish`] wants.

mod ext;
mod hashing;
mod writer;

use std::fs::File;
use std::sync::Arc;
use std::time::SystemTime;

use async_trait::async_trait;
use bytes::Bytes;
use serde::{Deserialize, Serialize};

pub use ext::ContentExt;
pub(crate) use ext::Patience;
pub use writer::{Committed, Expected, Verified, Writer};

use crate::capability::Capabilities;
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::limit;
use crate::records::Batch;

/// How much a publish promises before it returns; see `docs/DURABILITY.md`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Durability {
    /// The bytes and their records are on stable storage.
    #[default]
    Full,
    /// The same, waited for together with other publishes.
    Batched,
    /// May be lost before the next flush; never wrong.
    Relaxed,
}

/// A blob that is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Stat {
    /// Its digest.
    pub digest: Digest,
    /// Its length in bytes.
    pub size: u64,
    /// Which storing of these bytes it is.
    pub version: Version,
}

/// Which storing of a blob is meant; a blob that is removed and stored again gets another.
///
/// A removal that comes late, from a slow collector, can so never hit what was stored after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Version(pub u64);

/// An ingest that is not published yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IngestStatus {
    /// The key it was begun with.
    pub key: String,
    /// Bytes it holds.
    pub offset: u64,
    /// When it last grew, as far as the store knows.
    pub updated_at: SystemTime,
}

/// A store of blobs.
///
/// `stat` and one page of `list` are quick and run where they are called; the rest may take as
/// long as a disk does and is moved off the reactor by the store.
#[async_trait]
pub trait ContentStore: Send + Sync + 'static {
    /// What it promises beyond the least.
    fn capabilities(&self) -> Capabilities;

    /// Whether the blob is there, and its size.
    async fn stat(&self, digest: &Digest) -> Result<Option<Stat>>;

    /// A reader of the blob, or nothing when it is not there.
    ///
    /// A reader outlives the removal of its blob, or fails; it never reads other bytes.
    async fn open(&self, digest: &Digest) -> Result<Option<Arc<dyn BlobReader>>>;

    /// Begins the ingest of `key`, or resumes it at its offset.
    ///
    /// # Errors
    /// `Busy` while another writer holds the key; `InvalidArgument` for a key that
    /// [`check_key`] refuses.
    async fn begin(&self, key: &str) -> Result<Box<dyn Ingest>>;

    /// The ingests that are not published, in the order of their keys.
    async fn ingests(&self) -> Result<Vec<IngestStatus>>;

    /// Forgets an ingest and frees its space; false when there is none.
    ///
    /// # Errors
    /// `Busy` while a writer holds it.
    async fn discard(&self, key: &str) -> Result<bool>;

    /// Removes the blob where it is this version of it; false when it is not there, or is
    /// another by now. To look and to remove is one step for whoever else removes or publishes.
    async fn remove_version(&self, digest: &Digest, version: Version) -> Result<bool>;

    /// Removes what a collection found dead: as [`ContentStore::remove_version`] of each, whatever
    /// became of it.
    ///
    /// A store that is [`Joint`](crate::Capability::Joint) applies the batch in the same step and
    /// answers true; all of it may be undone by a crash until the next [`ContentStore::flush`].
    /// Any other leaves the batch to the caller, and answers false.
    ///
    /// # Errors
    /// Those of [`Records::commit`](crate::Records::commit) for the batch; nothing is removed then.
    async fn remove_versions(&self, blobs: &[(Digest, Version)], _batch: &Batch) -> Result<bool> {
        for (digest, version) in blobs {
            self.remove_version(digest, *version).await?;
        }
        Ok(false)
    }

    /// At most `limit` blobs in digest order, those after `after` only.
    ///
    /// A page shorter than `limit` is the last.
    async fn list(&self, after: Option<&Digest>, limit: usize) -> Result<Vec<Stat>>;

    /// Makes every blob that is there durable, whoever published it: what was acknowledged as
    /// [`Durability::Relaxed`], and what another process has named but not acknowledged yet.
    async fn flush(&self) -> Result<()>;

    /// Gives back to the file system what removals have left in files that hold more, as far as
    /// that is worth its work. A collection calls it at its end; whoever reads and writes goes on.
    async fn compact(&self) -> Result<()> {
        Ok(())
    }
}

/// Reads one blob at any offset, from any number of tasks.
#[async_trait]
pub trait BlobReader: Send + Sync {
    /// Length of the blob in bytes.
    fn size(&self) -> u64;

    /// Up to `length` bytes from `offset`; fewer only where the blob ends, none beyond it.
    ///
    /// Not checked against the digest: [`ContentExt::fetch`] and the engines do that.
    async fn read_at(&self, offset: u64, length: usize) -> Result<Bytes>;

    /// The blob as a file, where the store keeps it as one; its offset is shared, so read by
    /// position only.
    fn file(&self) -> Option<&Arc<File>> {
        None
    }
}

/// Bytes on their way in. Dropping it keeps what was written, for [`ContentStore::begin`].
#[async_trait]
pub trait Ingest: Send {
    /// The key it was begun with.
    fn key(&self) -> &str;

    /// Bytes it holds.
    fn offset(&self) -> u64;

    /// Adds bytes at the end: all of them, or an error that poisons the ingest.
    async fn append(&mut self, data: Bytes) -> Result<()>;

    /// Adds up to `length` bytes of a file from `offset`, shared or copied within the kernel; how
    /// many. None where the file ends, or the store cannot: they are read and appended then.
    ///
    /// # Errors
    /// As [`Ingest::append`].
    async fn adopt(&mut self, _file: &Arc<File>, _offset: u64, _length: usize) -> Result<usize> {
        Ok(0)
    }

    /// Up to `length` bytes from `offset` of what was appended, to hash a resumed ingest.
    async fn read_back(&mut self, offset: u64, length: usize) -> Result<Bytes>;

    /// Drops what was written; the offset is 0 again.
    async fn rewind(&mut self) -> Result<()>;

    /// Makes the bytes a blob, and commits `batch` where the store is the home of its records.
    ///
    /// True when the batch was committed; a store that is not the home leaves it alone and says
    /// false. A blob that is there already with the same size is not written again.
    ///
    /// # Errors
    /// `Internal` when `verified` is of another ingest. After any error of the device the ingest
    /// is poisoned: it must be begun anew.
    async fn publish(
        self: Box<Self>,
        verified: &Verified,
        batch: &Batch,
        durability: Durability,
    ) -> Result<bool>;
}

/// Checks the key of an ingest or a snapshot: 1 to [`limit::KEY`] bytes, no control character.
///
/// # Errors
/// `InvalidArgument`.
pub fn check_key(key: &str) -> Result<()> {
    if key.is_empty() || key.len() > limit::KEY || key.chars().any(char::is_control) {
        return Err(Error::invalid(format!(
            "expected a key of 1 to {} bytes without control characters",
            limit::KEY
        ))
        .subject(format!("{:.100}", key.escape_debug())));
    }
    Ok(())
}
