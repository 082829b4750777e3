//! The bytes of a layer on their way to an unpacker, which runs on a thread that may block.

use std::io::{self, Read};

use bytes::{Buf, Bytes};
use futures_util::future::BoxFuture;
use tokio::sync::mpsc::{Receiver, Sender, channel};

use crate::content::Writer;
use crate::error::{Error, Result};

/// Maximum number of pieces between sender and reader.
const PIECES_AHEAD: usize = 2;

/// A layer that is unpacked while its bytes arrive.
pub struct LayerFeed<'a> {
    /// Sends the bytes of the layer to `unpacked`, beginning with the first byte.
    pub sender: LayerSender,
    /// Unpacks the bytes. This future must be polled while the bytes are sent, and must not wait
    /// for another layer. If the bytes end early, the future returns `Ok`, because the job that
    /// sends the bytes reports the error. If a later attempt stores the whole layer, the unpacker
    /// reads the layer from the store in [`Unpacker::finish`](super::Unpacker::finish).
    pub unpacked: BoxFuture<'a, Result<()>>,
}

/// The sending half of the channel through which an unpacker receives the bytes of a layer.
pub struct LayerSender(Sender<Bytes>);

/// The receiving half of the channel through which an unpacker receives the bytes of a layer. The
/// reader blocks until bytes arrive.
pub struct LayerReader {
    pieces: Receiver<Bytes>,
    current: Bytes,
    ended: bool,
}

/// Returns both halves of a new channel for the bytes of a layer.
pub fn layer_channel() -> (LayerSender, LayerReader) {
    let (sender, pieces) = channel(PIECES_AHEAD);
    let reader = LayerReader {
        pieces,
        current: Bytes::new(),
        ended: false,
    };
    (LayerSender(sender), reader)
}

impl LayerSender {
    /// Sends a piece that is not empty. If the reader is gone, the unpacker reports the reason.
    pub(super) async fn send(&self, piece: Bytes) {
        let _ = self.0.send(piece).await;
    }

    /// Sends the end of the layer. Call this once the layer is complete and verified. If the sender
    /// is dropped without this call, the reader fails with `Cancelled`.
    pub async fn end(self) {
        let _ = self.0.send(Bytes::new()).await;
    }
}

/// Writes a piece that is not empty, and sends it to `sender` at the same time.
///
/// # Errors
/// As [`Writer::write`].
pub(super) async fn write_and_send(
    writer: &mut Writer,
    piece: Bytes,
    sender: Option<&LayerSender>,
) -> Result<()> {
    let Some(sender) = sender else {
        return writer.write(piece).await;
    };
    let (written, ()) = tokio::join!(writer.write(piece.clone()), sender.send(piece));
    written
}

impl LayerReader {
    /// Blocks until the next bytes arrive. Returns them without consuming them, or an empty slice
    /// at the end.
    ///
    /// # Errors
    /// `Cancelled` if the sender was dropped before the end of the layer.
    pub fn peek(&mut self) -> Result<&[u8]> {
        if self.current.is_empty() && !self.ended {
            let piece = self.pieces.blocking_recv();
            self.current = piece.ok_or_else(|| {
                Error::cancelled(
                    "the layer ended before all of it was received; pull the image again",
                )
            })?;
            self.ended = self.current.is_empty();
        }
        Ok(&self.current)
    }
}

impl Read for LayerReader {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let read = self.peek()?.len().min(out.len());
        self.current.copy_to_slice(&mut out[..read]);
        Ok(read)
    }
}
