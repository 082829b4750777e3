//! The one way into a store: hash what passes, check it, publish.

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

/// Piece in which a resumed ingest is read back, and a file is taken.
const PIECE: usize = 1 << 20;

/// What the caller knows of the bytes before they come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Expected {
    /// Their digest, if known.
    pub digest: Option<Digest>,
    /// Their length, if known.
    pub size: Option<u64>,
}

impl Expected {
    /// Anything.
    pub const ANY: Expected = Expected {
        digest: None,
        size: None,
    };

    /// These bytes and no others.
    pub fn exactly(digest: Digest, size: u64) -> Self {
        Expected {
            digest: Some(digest),
            size: Some(size),
        }
    }

    /// Bytes of this digest, whatever their length.
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

    fn check(&self, digest: &Digest, size: u64) -> Result<()> {
        if let Some(expected) = self.size.filter(|expected| *expected != size) {
            return Err(Error::corrupt(format!(
                "expected {expected} bytes, found {size}"
            )));
        }
        match self.digest {
            Some(expected) if expected != *digest => Err(Error::corrupt(format!(
                "expected content {expected}, found {digest}"
            ))),
            _ => Ok(()),
        }
    }
}

/// Proof that the bytes of one ingest were hashed; only a [`Writer`] makes it.
#[derive(Debug)]
pub struct Verified {
    key: String,
    digest: Digest,
    size: u64,
}

impl Verified {
    /// The digest of the bytes.
    pub fn digest(&self) -> &Digest {
        &self.digest
    }

    /// Their length.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Checks that the proof is of the ingest `key` with `size` bytes; every store asks.
    ///
    /// # Errors
    /// `Internal` when it is of another.
    pub fn check(&self, key: &str, size: u64) -> Result<()> {
        if self.key != key || self.size != size {
            return Err(Error::internal(format!(
                "the proof is of ingest {:?} with {} bytes, found {key:?} with {size}",
                self.key, self.size
            )));
        }
        Ok(())
    }
}

/// What a commit did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Committed {
    /// Digest of the bytes.
    pub digest: Digest,
    /// Their length.
    pub size: u64,
    /// Whether the store committed the batch as well.
    pub batch: bool,
}

/// Owns an ingest, and hashes what is written to it.
pub struct Writer {
    ingest: Box<dyn Ingest>,
    expected: Expected,
    /// None after a failed write.
    hashing: Option<Hashing>,
}

impl Writer {
    /// Begins or resumes the ingest `key`; what is there already is hashed first.
    ///
    /// # Errors
    /// Those of [`ContentStore::begin`].
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
                return Err(
                    Error::corrupt("the ingest is shorter than its offset; discard it")
                        .operation("resume")
                        .subject(key),
                );
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

    /// The key of its ingest.
    pub fn key(&self) -> &str {
        self.ingest.key()
    }

    /// Bytes written so far, by this writer and before it.
    pub fn offset(&self) -> u64 {
        self.ingest.offset()
    }

    /// The digest of what was written so far.
    ///
    /// # Errors
    /// `FailedPrecondition` after a failed write.
    pub async fn digest(&mut self) -> Result<Digest> {
        let hashing = self.hashing.as_ref().ok_or_else(poisoned)?;
        Ok(hashing.digest().await)
    }

    /// Writes `data`; its hashing goes on meanwhile, and may end after.
    ///
    /// # Errors
    /// `Corrupt` when it is more than expected; those of the store, after which the writer is
    /// of no use.
    pub async fn write(&mut self, data: Bytes) -> Result<()> {
        self.check_room(data.len() as u64)?;
        let hashing = self.hashing.take().ok_or_else(poisoned)?;
        hashing.push(data.clone());
        self.ingest.append(data).await?;
        hashing.keep_up().await;
        self.hashing = Some(hashing);
        Ok(())
    }

    /// Writes `length` bytes of a file from `offset`, fewer where it ends: shared or copied within
    /// the kernel where the store can, and hashed as they are in the ingest, whatever becomes of
    /// the file meanwhile. How many they were.
    ///
    /// # Errors
    /// As [`Writer::write`]; those of the file.
    pub async fn write_file(&mut self, file: &Arc<File>, offset: u64, length: u64) -> Result<u64> {
        self.check_room(length)?;
        let hashing = self.hashing.take().ok_or_else(poisoned)?;
        let (mut at, end) = (offset, offset + length);
        while at < end {
            let wanted = usize::try_from(end - at).map_or(PIECE, |left| left.min(PIECE));
            let piece = take(&mut *self.ingest, file, at, wanted).await?;
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

    /// Writes what is missing of a blob of another store, whose bytes at the offset go on those that
    /// are there.
    ///
    /// # Errors
    /// As [`Writer::write`]; those of the reader.
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
        let end = self.ingest.offset() + length;
        match self.expected.size.filter(|expected| end > *expected) {
            Some(expected) => Err(
                Error::corrupt(format!("expected {expected} bytes, found more"))
                    .operation("write")
                    .subject(self.ingest.key()),
            ),
            None => Ok(()),
        }
    }

    /// Expects these bytes and no others from now on.
    pub(crate) fn expect(&mut self, digest: Digest, size: u64) {
        self.expected = Expected::exactly(digest, size);
    }

    /// Drops what was written; the offset is 0 again.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn rewind(&mut self) -> Result<()> {
        self.hashing = None;
        self.ingest.rewind().await?;
        self.hashing = Some(Hashing::new(self.expected.algorithm()));
        Ok(())
    }

    /// Checks what was written against what was expected, and publishes it with `batch`.
    ///
    /// # Errors
    /// `Corrupt` when digest or size are not the expected; the ingest is then kept, so that the
    /// right bytes may still be committed by whoever knows them. Those of the store.
    pub async fn commit(mut self, batch: &Batch, durability: Durability) -> Result<Committed> {
        let digest = self.digest().await?;
        let size = self.ingest.offset();
        self.expected
            .check(&digest, size)
            .map_err(|error| error.operation("commit").subject(self.ingest.key()))?;
        let verified = Verified {
            key: self.ingest.key().to_owned(),
            digest,
            size,
        };
        let batch = self.ingest.publish(&verified, batch, durability).await?;
        Ok(Committed {
            digest,
            size,
            batch,
        })
    }
}

/// Adds bytes of a file to an ingest; them as the ingest has them.
async fn take(
    ingest: &mut dyn Ingest,
    file: &Arc<File>,
    offset: u64,
    length: usize,
) -> Result<Bytes> {
    let before = ingest.offset();
    let adopted = ingest.adopt(file, offset, length).await?;
    if adopted > 0 {
        return ingest.read_back(before, adopted).await;
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

fn poisoned() -> Error {
    Error::precondition("an earlier write failed; begin the ingest anew").operation("write")
}
