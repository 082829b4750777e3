//! A blob of a store as a blocking reader.

use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread;

use bytes::{Buf, Bytes};
use cas_core::{BlobReader, Context, Descriptor, Digest, Error, Hasher, Result, Store, pool};
use tokio::runtime::Handle;

use crate::buffers::{Buffers, PIECE};
use crate::codec::{self, Compression};

/// Bytes that are needed to detect the compression.
const MAGIC: usize = 8;
/// Pieces that are hashed ahead of the reader.
const AHEAD: usize = 2;

pub(super) struct Blob {
    reader: Arc<dyn BlobReader>,
    /// Entered while the blob is read, because a remote store needs its reactor.
    reactor: Option<Handle>,
    at: u64,
    ahead: Bytes,
}

impl Blob {
    /// Opens the blob of a descriptor, and detects its compression.
    ///
    /// # Errors
    /// `NotFound` if the store does not have it.
    pub(super) async fn open(
        store: &Store,
        descriptor: &Descriptor,
    ) -> Result<(Self, Compression)> {
        let reader = store.content.open(&descriptor.digest).await?;
        let reader = reader
            .ok_or_else(|| Error::not_found("the layer is not in the store; import or pull it"))
            .during("open layer", descriptor.digest)?;
        let magic = reader.read_at(0, MAGIC).await?;
        let blob = Blob {
            reader,
            reactor: Handle::try_current().ok(),
            at: 0,
            ahead: Bytes::new(),
        };
        Ok((blob, codec::detect(&magic)))
    }
}

impl Read for Blob {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if let Some(file) = self.reader.file() {
            let read = file.read_at(out, self.at)?;
            self.at += read as u64;
            return Ok(read);
        }
        if self.ahead.is_empty() {
            let _entered = self.reactor.as_ref().map(Handle::enter);
            self.ahead = pool::wait(self.reader.read_at(self.at, PIECE))?;
            self.at += self.ahead.len() as u64;
        }
        let read = self.ahead.len().min(out.len());
        self.ahead.copy_to_slice(&mut out[..read]);
        Ok(read)
    }
}

/// A blob that is read and hashed ahead on a thread. The end of its bytes is an error if they do
/// not match the digest.
pub(super) struct CheckedBlob {
    digest: Digest,
    /// Present until the first read.
    blob: Option<Blob>,
    pieces: Option<Receiver<io::Result<Bytes>>>,
    ahead: Bytes,
}

impl CheckedBlob {
    pub(super) fn new(blob: Blob, digest: Digest) -> Self {
        CheckedBlob {
            digest,
            blob: Some(blob),
            pieces: None,
            ahead: Bytes::new(),
        }
    }

    fn begin(&mut self, mut blob: Blob) -> io::Result<()> {
        let (sender, pieces) = sync_channel(AHEAD);
        let (digest, buffers) = (self.digest, Buffers::default());
        let work = move || {
            let mut hash = Hasher::new(digest.algorithm());
            loop {
                let piece = match buffers.read(&mut blob, u64::MAX) {
                    Ok(piece) if piece.is_empty() => check(hash.clone().finish(), digest),
                    piece => piece.inspect(|piece| hash.update(piece)),
                };
                let last = piece.as_ref().map_or(true, Bytes::is_empty);
                // The receiver is gone if the other side failed.
                if sender.send(piece).is_err() || last {
                    return;
                }
            }
        };
        thread::Builder::new()
            .name("cas-hash".to_owned())
            .spawn(work)?;
        self.pieces = Some(pieces);
        Ok(())
    }
}

/// Returns an empty piece, which is the end, if the bytes match their digest.
fn check(found: Digest, expected: Digest) -> io::Result<Bytes> {
    if found == expected {
        return Ok(Bytes::new());
    }
    Err(Error::corrupt(format!(
        "the blob hashes to {found}, {expected} was expected"
    ))
    .into())
}

impl Read for CheckedBlob {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if let Some(blob) = self.blob.take() {
            self.begin(blob)?;
        }
        if let (true, Some(pieces)) = (self.ahead.is_empty(), &self.pieces) {
            // The thread is gone only after it has sent the end or an error.
            self.ahead = pieces.recv().unwrap_or_else(|_| Ok(Bytes::new()))?;
        }
        let read = self.ahead.len().min(out.len());
        self.ahead.copy_to_slice(&mut out[..read]);
        Ok(read)
    }
}
