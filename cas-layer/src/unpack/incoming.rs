//! The bytes of a layer while they come to the store, handed on to whoever unpacks it.

use std::io::{self, Read};

use bytes::{Buf, Bytes};
use cas_core::{Error, Result};
use tokio::sync::mpsc::{Receiver, Sender, channel};

use crate::codec::{self, Compression};

/// Pieces that may wait between the two.
const AHEAD: usize = 2;

/// The end that whoever stores the layer has.
pub(crate) struct Feed(Sender<Bytes>);

/// The end that whoever unpacks it has.
pub(crate) struct Incoming {
    pieces: Receiver<Bytes>,
    ahead: Bytes,
    ended: bool,
}

/// A new pair of both ends.
pub(crate) fn feed() -> (Feed, Incoming) {
    let (sender, pieces) = channel(AHEAD);
    let incoming = Incoming {
        pieces,
        ahead: Bytes::new(),
        ended: false,
    };
    (Feed(sender), incoming)
}

impl Feed {
    /// Hands on a piece that is not empty. Whoever stopped to listen says himself why.
    pub(crate) async fn send(&self, piece: Bytes) {
        let _ = self.0.send(piece).await;
    }

    /// Says that the layer is whole; without that, what was handed on is no layer.
    pub(crate) async fn end(self) {
        let _ = self.0.send(Bytes::new()).await;
    }
}

impl Incoming {
    /// How the layer is compressed, for which its first piece is waited.
    pub(super) fn compression(&mut self) -> Result<Compression> {
        self.turn()?;
        Ok(codec::detect(&self.ahead))
    }

    /// Waits for the next piece when the last one is used up.
    fn turn(&mut self) -> Result<()> {
        if self.ahead.is_empty() && !self.ended {
            let piece = self.pieces.blocking_recv();
            self.ahead = piece.ok_or_else(|| Error::cancelled("the layer did not come"))?;
            self.ended = self.ahead.is_empty();
        }
        Ok(())
    }
}

impl Read for Incoming {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        self.turn()?;
        let read = self.ahead.len().min(out.len());
        self.ahead.copy_to_slice(&mut out[..read]);
        Ok(read)
    }
}
