//! [`Writer`]: hashes, checks and publishes bytes. A store publishes no bytes without a writer.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use bytes::Bytes;

use super::hashing::Hashing;
use super::{BlobReader, ContentStore, Durability, Ingest};
use crate::digest::{Algorithm, Digest};
use crate::error::{Error, Result};
use crate::pool;
use crate::records::Batch;

/// Maximum number of bytes of an ingest, a file or a blob that are read in one piece.
const PIECE: usize = 1 << 20;

/// The digest and the size that the caller of a [`Writer`] expects of the bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Expected {
    /// Expected digest of the bytes, or `None` for any digest.
    pub digest: Option<Digest>,
    /// Expected number of bytes, or `None` for any number.
    pub size: Option<u64>,
}

impl Expected {
    /// Any bytes.
    pub const ANY: Expected = Expected {
        digest: None,
        size: None,
    };

    /// Returns an `Expected` for bytes with this digest and size.
    pub fn exactly(digest: Digest, size: u64) -> Self {
        Expected {
            digest: Some(digest),
            size: Some(size),
        }
    }

    /// Returns an `Expected` for bytes with this digest and any size.
    pub fn digest(digest: Digest) -> Self {
        Expected {
            digest: Some(digest),
            size: None,
        }
    }

    fn algorithm(&self) -> Algorithm {
        self.digest
            .map_or(Algorithm::Sha256, |digest| digest.algorithm())
    }

    /// Checks the digest and the size that were found.
    pub(crate) fn check(&self, digest: &Digest, size: u64) -> Result<()> {
        if let Some(expected) = self.size.filter(|expected| *expected != size) {
            return Err(Error::corrupt(format!(
                "expected {expected} bytes, found {size}; check the source of the bytes"
            )));
        }
        match self.digest {
            // The caller adds the subject of the error: the expected digest, or the key of the
            // ingest, which usually is the expected digest. So the message does not repeat it.
            Some(expected) if expected != *digest => Err(Error::corrupt(format!(
                "the bytes do not have the expected digest, but {digest}; check the source of the \
                 bytes"
            ))),
            _ => Ok(()),
        }
    }
}

/// Proof that the bytes of one ingest were hashed. Only a [`Writer`] creates it.
#[derive(Debug)]
pub struct Verified {
    key: String,
    digest: Digest,
    size: u64,
}

impl Verified {
    /// Returns the digest of the bytes.
    pub fn digest(&self) -> &Digest {
        &self.digest
    }

    /// Returns the number of bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Checks that the proof belongs to the ingest `key` with `size` bytes. Every store calls this
    /// before it publishes.
    ///
    /// # Errors
    /// `Internal` if the proof belongs to another ingest, or if the number of bytes differs.
    pub fn check(&self, key: &str, size: u64) -> Result<()> {
        if self.key != key || self.size != size {
            return Err(Error::internal(format!(
                "the verified bytes are those of ingest {:?} ({} bytes), not of ingest {key:?} \
                 ({size} bytes); please report it",
                self.key, self.size
            )));
        }
        Ok(())
    }
}

/// The outcome of [`Writer::commit`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Committed {
    /// Digest of the bytes.
    pub digest: Digest,
    /// Number of bytes.
    pub size: u64,
    /// Whether the store also committed the batch.
    pub batch: bool,
}

/// Writes an ingest, and hashes the bytes that are written.
pub struct Writer {
    ingest: Box<dyn Ingest>,
    expected: Expected,
    /// `None` during a write or a rewind, and after one that failed or was cancelled.
    hashing: Option<Hashing>,
}

impl Writer {
    /// Begins an ingest under `key`. If an unfinished ingest has this key, resumes that ingest and
    /// hashes the bytes that it holds. Returns the writer of the ingest.
    ///
    /// # Errors
    /// Errors of [`ContentStore::begin`]; `Corrupt` if the ingest holds fewer bytes than it states;
    /// errors of the store.
    pub async fn begin<S>(store: &S, key: &str, expected: Expected) -> Result<Self>
    where
        S: ContentStore + ?Sized,
    {
        let mut ingest = store.begin(key).await?;
        let hashing = Hashing::new(expected.algorithm());
        let mut at = 0;
        while at < ingest.offset() {
            let piece = ingest.read_back(at, PIECE).await?;
            if piece.is_empty() {
                return Err(fewer_than_stated(&*ingest, at).operation("resume"));
            }
            at += piece.len() as u64;
            hashing.push(piece);
            hashing.keep_up().await;
        }
        Ok(Writer {
            ingest,
            expected,
            hashing: Some(hashing),
        })
    }

    /// Returns the key of the ingest.
    pub fn key(&self) -> &str {
        self.ingest.key()
    }

    /// Returns the number of bytes written so far, including the bytes of earlier writers.
    pub fn offset(&self) -> u64 {
        self.ingest.offset()
    }

    /// Returns the digest of all bytes of the ingest, including the bytes of earlier writers.
    ///
    /// # Errors
    /// `FailedPrecondition` after a write or a rewind that failed or was cancelled.
    pub async fn digest(&mut self) -> Result<Digest> {
        let hashing = self.hashing.as_ref().ok_or_else(poisoned)?;
        Ok(hashing.digest().await)
    }

    /// Appends `data`. This function may return before the last bytes are hashed.
    ///
    /// # Errors
    /// `Corrupt`, before anything is appended, if the ingest would get more bytes than expected;
    /// `FailedPrecondition` after a write or a rewind that failed or was cancelled; errors of the
    /// store, after which the writer accepts no more bytes.
    pub async fn write(&mut self, data: Bytes) -> Result<()> {
        self.check_room(data.len() as u64)?;
        let hashing = self.hashing.take().ok_or_else(poisoned)?;
        hashing.push(data.clone());
        self.ingest.append(data).await?;
        hashing.keep_up().await;
        self.hashing = Some(hashing);
        Ok(())
    }

    /// Appends the bytes of a file from `offset` on, until `length` bytes are appended or the file
    /// ends. Returns the number of appended bytes. A store that can share the bytes with the file,
    /// or copy them within the kernel, does so. The bytes are hashed as stored, even if the file
    /// changes meanwhile.
    ///
    /// # Errors
    /// `Corrupt` if `length` is more than the number of bytes that are still expected; other errors
    /// of [`Writer::write`]; errors of the file.
    pub async fn write_file(&mut self, file: &Arc<File>, offset: u64, length: u64) -> Result<u64> {
        self.check_room(length)?;
        let hashing = self.hashing.take().ok_or_else(poisoned)?;
        let (mut at, end) = (offset, offset.saturating_add(length));
        while at < end {
            let wanted = usize::try_from(end - at).map_or(PIECE, |left| left.min(PIECE));
            let piece = append_from(&mut *self.ingest, file, at, wanted).await?;
            if piece.is_empty() {
                break;
            }
            at += piece.len() as u64;
            hashing.push(piece);
            hashing.keep_up().await;
        }
        self.hashing = Some(hashing);
        Ok(at - offset)
    }

    /// Appends the bytes of a blob of another store, except the first [`offset`](Self::offset)
    /// bytes of the blob, which the ingest must already hold. Returns no error if the blob ends
    /// before its stated size. [`commit`](Self::commit) then fails if the writer expects the stated
    /// size or the digest of the blob.
    ///
    /// # Errors
    /// Errors of [`Writer::write`] and of the reader.
    pub async fn write_blob(&mut self, reader: &dyn BlobReader) -> Result<()> {
        let left = |writer: &Self| reader.size().saturating_sub(writer.offset());
        if let Some(file) = reader.file() {
            let (offset, length) = (self.offset(), left(self));
            return self.write_file(file, offset, length).await.map(|_| ());
        }
        while left(self) > 0 {
            let piece = reader.read_at(self.offset(), PIECE).await?;
            if piece.is_empty() {
                break;
            }
            self.write(piece).await?;
        }
        Ok(())
    }

    fn check_room(&self, length: u64) -> Result<()> {
        let end = self.ingest.offset().saturating_add(length);
        match self.expected.size.filter(|expected| end > *expected) {
            Some(expected) => Err(Error::corrupt(format!(
                "expected {expected} bytes, found more; check the source of the bytes"
            ))
            .operation("write")
            .subject(self.ingest.key())),
            None => Ok(()),
        }
    }

    /// Changes what is expected. The bytes are still hashed by the algorithm of the digest that was
    /// expected before.
    pub(crate) fn expect(&mut self, digest: Digest, size: u64) {
        self.expected = Expected::exactly(digest, size);
    }

    /// Drops all bytes of the ingest, so that its offset is 0 again.
    ///
    /// # Errors
    /// Errors of the store.
    pub async fn rewind(&mut self) -> Result<()> {
        self.hashing = None;
        self.ingest.rewind().await?;
        self.hashing = Some(Hashing::new(self.expected.algorithm()));
        Ok(())
    }

    /// Checks the bytes against what was expected. Returns the proof.
    ///
    /// # Errors
    /// `Corrupt` if the digest or the size is not the expected one; `FailedPrecondition` after a
    /// write or a rewind that failed or was cancelled.
    pub(crate) async fn verify(&mut self) -> Result<Verified> {
        let digest = self.digest().await?;
        let size = self.ingest.offset();
        self.expected
            .check(&digest, size)
            .map_err(|error| error.operation("commit").subject(self.ingest.key()))?;
        Ok(Verified {
            key: self.ingest.key().to_owned(),
            digest,
            size,
        })
    }

    /// Checks the bytes against the expected digest and size, and publishes them as a blob. Commits
    /// `batch` in the same step if the store keeps the records too. If the store did not commit the
    /// batch, [`Committed::batch`] is false, and the caller must commit the batch.
    ///
    /// # Errors
    /// `Corrupt` if the digest or the size is not the expected one; `FailedPrecondition` after a
    /// write or a rewind that failed or was cancelled; errors of [`Ingest::publish`]. If the digest
    /// or the size is not the expected one, the ingest keeps its bytes, so that another writer that
    /// expects these bytes can still commit them.
    pub async fn commit(mut self, batch: &Batch, durability: Durability) -> Result<Committed> {
        let verified = self.verify().await?;
        let Verified { digest, size, .. } = verified;
        let batch = self.ingest.publish(&verified, batch, durability).await?;
        Ok(Committed {
            digest,
            size,
            batch,
        })
    }
}

/// Appends bytes of a file and returns them as stored.
async fn append_from(
    ingest: &mut dyn Ingest,
    file: &Arc<File>,
    offset: u64,
    length: usize,
) -> Result<Bytes> {
    let before = ingest.offset();
    let adopted = ingest.adopt(file, offset, length).await?;
    if adopted > 0 {
        return read_all_back(ingest, before, adopted).await;
    }
    let file = Arc::clone(file);
    let data = pool::run(move || {
        let mut data = vec![0; length];
        let read = file.read_at(&mut data, offset)?;
        data.truncate(read);
        Ok(Bytes::from(data))
    })
    .await?;
    if !data.is_empty() {
        ingest.append(data.clone()).await?;
    }
    Ok(data)
}

/// Returns `length` bytes of an ingest from `offset`. The store may return them in several pieces.
async fn read_all_back(ingest: &mut dyn Ingest, offset: u64, length: usize) -> Result<Bytes> {
    let first = ingest.read_back(offset, length).await?;
    if first.len() == length {
        return Ok(first);
    }
    let mut data = first.to_vec();
    while data.len() < length {
        let at = offset + data.len() as u64;
        let piece = ingest.read_back(at, length - data.len()).await?;
        if piece.is_empty() {
            return Err(fewer_than_stated(ingest, at).operation("write"));
        }
        data.extend_from_slice(&piece);
    }
    Ok(data.into())
}

fn poisoned() -> Error {
    Error::precondition(
        "an earlier write or rewind failed or was cancelled; begin the ingest again",
    )
    .operation("write")
}

/// Returns the error for an ingest of which only `found` bytes can be read back.
pub(crate) fn fewer_than_stated(ingest: &dyn Ingest, found: u64) -> Error {
    Error::corrupt(format!(
        "the ingest states {} bytes, but only {found} can be read; remove it (`cas ingest rm`)",
        ingest.offset()
    ))
    .subject(ingest.key())
}
