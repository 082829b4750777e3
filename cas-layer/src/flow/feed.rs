//! The beginning of the pipeline: the stored bytes of blobs, in pieces. Reading them calls code of
//! the store, which must not run on a confined thread.

use std::io::{self, Read};
use std::sync::mpsc::{Receiver, SyncSender};

use bytes::{Buf, Bytes};
use cas_core::Error;

use super::{BUFFER, LayerSource, OnRead};
use crate::buffers::Buffers;

/// Maximum number of pieces that wait to be decompressed.
pub(super) const AHEAD: usize = 2;

/// Stored bytes. An empty piece is the end of a blob, and an error the end of the pipeline.
pub(super) type Piece = io::Result<Bytes>;

/// Sends all blobs, until the receiver is dropped or a blob cannot be read.
pub(super) fn feed(layers: Vec<LayerSource<'_>>, out: SyncSender<Piece>, on_read: OnRead<'_>) {
    let buffers = Buffers::default();
    for layer in layers {
        let mut blob = Blob {
            source: layer.blob,
            read: 0,
            size: layer.descriptor.size,
            on_read,
        };
        loop {
            let piece = buffers.read(&mut blob, BUFFER as u64);
            let (is_end, failed) = (matches!(&piece, Ok(end) if end.is_empty()), piece.is_err());
            if out.send(piece).is_err() || failed {
                return;
            }
            if is_end {
                break;
            }
        }
    }
}

/// A blob whose bytes are counted, and are never more than its descriptor states.
struct Blob<'a, 'b> {
    source: Box<dyn Read + Send + 'b>,
    read: u64,
    size: u64,
    on_read: OnRead<'a>,
}

impl Read for Blob<'_, '_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let read = self.source.read(out)?;
        self.read += read as u64;
        if self.read > self.size {
            return Err(Error::corrupt(format!(
                "the blob is longer than the {} bytes of its descriptor; pull or import the image \
                 again",
                self.size
            ))
            .into());
        }
        (self.on_read)(read as u64);
        Ok(read)
    }
}

/// The pieces of one blob, as a reader.
pub(super) struct Stored<'a> {
    pieces: &'a Receiver<Piece>,
    piece: Bytes,
    ended: bool,
}

impl<'a> Stored<'a> {
    pub(super) fn new(pieces: &'a Receiver<Piece>) -> Self {
        Stored {
            pieces,
            piece: Bytes::new(),
            ended: false,
        }
    }

    /// Returns the next bytes, which are empty at the end of the blob.
    fn fill(&mut self) -> io::Result<&mut Bytes> {
        if self.piece.is_empty() && !self.ended {
            let early = || Error::internal("a blob ended too early; please report it");
            self.piece = self.pieces.recv().map_err(|_| early())??;
            self.ended = self.piece.is_empty();
        }
        Ok(&mut self.piece)
    }

    /// Reads to the end of the blob, so that the next blob can begin.
    ///
    /// # Errors
    /// Errors of the blob.
    pub(super) fn finish(mut self) -> io::Result<()> {
        while !self.fill()?.is_empty() {
            self.piece.clear();
        }
        Ok(())
    }
}

impl Read for Stored<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let piece = self.fill()?;
        let read = piece.len().min(out.len());
        piece.copy_to_slice(&mut out[..read]);
        Ok(read)
    }
}
