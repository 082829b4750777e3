//! A blob of a store as a blocking reader.

use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread;

use bytes::{Buf, Bytes};
use cas_core::error::{FETCH_AGAIN, REPAIR_BYTES};
use cas_core::{BlobReader, Context, Descriptor, Digest, Error, Hasher, Result, Store, pool};
use tokio::runtime::Handle;

use crate::buffers::{Buffers, PIECE};
use crate::codec::{self, Compression};

/// Maximum number of hashed pieces that wait for the reader, in addition to the piece that the
/// thread is sending.
const AHEAD: usize = 2;

/// The bytes of a blob, as they are stored. They are not verified.
pub struct Blob {
    reader: Arc<dyn BlobReader>,
    /// The tokio runtime of the caller, entered for each read, because a remote store needs one.
    runtime: Option<Handle>,
    at: u64,
    /// Bytes that were read from the store and not returned yet. Always empty if the store has a
    /// file of the blob, because the file is read directly.
    buffered: Bytes,
}

impl Blob {
    /// Opens the blob of a descriptor. Returns the blob, and the compression that its first bytes
    /// show.
    ///
    /// # Errors
    /// `NotFound` if the store does not have the blob; errors of the store.
    pub async fn open(store: &Store, descriptor: &Descriptor) -> Result<(Self, Compression)> {
        let reader = store.content.open(&descriptor.digest).await?;
        let reader = reader
            .ok_or_else(|| Error::not_found("the layer is not in the store").advice(FETCH_AGAIN))
            .during("open layer", descriptor.digest)?;
        let magic = reader.read_at(0, codec::MAGIC).await?;
        let blob = Blob {
            reader,
            runtime: Handle::try_current().ok(),
            at: 0,
            buffered: Bytes::new(),
        };
        Ok((blob, codec::detect(&magic)))
    }

    /// Returns the same blob from its beginning.
    pub(crate) fn again(&self) -> Self {
        Blob {
            reader: Arc::clone(&self.reader),
            runtime: self.runtime.clone(),
            at: 0,
            buffered: Bytes::new(),
        }
    }
}

impl Read for Blob {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if let Some(file) = self.reader.file() {
            let read = file.read_at(out, self.at)?;
            self.at += read as u64;
            return Ok(read);
        }
        if self.buffered.is_empty() {
            let _entered = self.runtime.as_ref().map(Handle::enter);
            self.buffered = pool::wait(self.reader.read_at(self.at, PIECE))?;
            self.at += self.buffered.len() as u64;
        }
        let read = self.buffered.len().min(out.len());
        self.buffered.copy_to_slice(&mut out[..read]);
        Ok(read)
    }
}

/// A blob that a thread reads and hashes ahead of the reader. Reading its end fails with `Corrupt`
/// if the bytes do not match the digest.
pub(super) struct CheckedBlob {
    digest: Digest,
    /// Present until the first read.
    blob: Option<Blob>,
    /// The pieces that the thread sends. `None` before the first read and after the last piece.
    pieces: Option<Receiver<io::Result<Bytes>>>,
    /// Bytes that were received, and not returned yet.
    buffered: Bytes,
}

impl CheckedBlob {
    pub(super) fn new(blob: Blob, digest: Digest) -> Self {
        CheckedBlob {
            digest,
            blob: Some(blob),
            pieces: None,
            buffered: Bytes::new(),
        }
    }

    fn begin(&mut self, mut blob: Blob) -> io::Result<()> {
        let (sender, pieces) = sync_channel(AHEAD);
        self.pieces = Some(pieces);
        let (digest, buffers) = (self.digest, Buffers::default());
        let work = move || {
            let mut hash = Hasher::new(digest.algorithm());
            loop {
                let piece = match buffers.read(&mut blob, u64::MAX) {
                    Ok(piece) if piece.is_empty() => check(hash.clone().finish(), digest),
                    piece => piece.inspect(|piece| hash.update(piece)),
                };
                let last = piece.as_ref().map_or(true, Bytes::is_empty);
                // The receiver is dropped if unpacking failed; nothing is left to do then.
                if sender.send(piece).is_err() || last {
                    return;
                }
            }
        };
        thread::Builder::new()
            .name("cas-hash".to_owned())
            .spawn(work)?;
        Ok(())
    }
}

/// Returns an empty piece, which marks the end of the blob, or fails with `Corrupt` if the digests
/// differ.
fn check(found: Digest, expected: Digest) -> io::Result<Bytes> {
    if found == expected {
        return Ok(Bytes::new());
    }
    let why = format!("the stored blob is damaged: its bytes hash to {found}");
    Err(Error::corrupt(why).advice(REPAIR_BYTES).into())
}

impl Read for CheckedBlob {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if let Some(blob) = self.blob.take() {
            self.begin(blob)?;
        }
        if self.buffered.is_empty()
            && let Some(pieces) = &self.pieces
        {
            self.buffered = pieces.recv().map_err(|_| ended_early())??;
            if self.buffered.is_empty() {
                self.pieces = None;
            }
        }
        let read = self.buffered.len().min(out.len());
        self.buffered.copy_to_slice(&mut out[..read]);
        Ok(read)
    }
}

/// Returns the error for a thread that ended without a result: its blob was not verified.
fn ended_early() -> io::Error {
    Error::internal("the thread that verifies the blob ended early; repeat the command").into()
}

#[cfg(test)]
mod tests {
    use async_trait::async_trait;

    use super::*;

    /// Panics at the first read, as a defect in a store would.
    struct Panics;

    #[async_trait]
    impl BlobReader for Panics {
        fn size(&self) -> u64 {
            1
        }

        async fn read_at(&self, _: u64, _: usize) -> Result<Bytes> {
            panic!("this test wants a panic");
        }
    }

    #[test]
    fn a_blob_whose_verification_panics_does_not_end_as_if_verified() {
        let blob = Blob {
            reader: Arc::new(Panics),
            runtime: None,
            at: 0,
            buffered: Bytes::new(),
        };
        let mut checked = CheckedBlob::new(blob, Digest::sha256(b"x"));
        for _ in 0..2 {
            let error = checked.read(&mut [0; 8]).unwrap_err();
            assert!(error.to_string().contains("ended early"), "{error}");
        }
    }
}
