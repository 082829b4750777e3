//! Unpacking while content comes: whoever stores a layer hands its bytes on.

use std::io::{self, Read};

use async_trait::async_trait;
use bytes::{Buf, Bytes};
use futures_util::future::BoxFuture;
use tokio::sync::mpsc::{Receiver, Sender, channel};

use crate::content::Writer;
use crate::descriptor::Descriptor;
use crate::document::Manifest;
use crate::error::{Error, Result};

/// Pieces that may wait between the two ends.
const AHEAD: usize = 2;

/// Unpacks an image while it comes to a store. Of several images it takes the first.
#[async_trait]
pub trait Unpacker: Send + Sync {
    /// An image is about to come, whose configuration is in the store.
    ///
    /// # Errors
    /// `Corrupt` when manifest and configuration do not fit together; those of the snapshotter.
    async fn begin(&self, manifest: &Manifest) -> Result<()>;

    /// Where the bytes of a layer go while they come, if they are wanted.
    fn receive(&self, layer: &Descriptor) -> Option<Receiving<'_>>;

    /// All is in the store: unpacks what is left, and commits.
    ///
    /// # Errors
    /// `Corrupt` for a layer that is damaged; those of the snapshotter. What was being made is
    /// removed then.
    async fn finish(&self) -> Result<()>;

    /// The image does not come: removes what was made.
    async fn abandon(&self);
}

/// A layer that is unpacked while it comes.
pub struct Receiving<'a> {
    /// Takes the bytes, from the first on.
    pub feed: Feed,
    /// What becomes of them; to be polled together with the feeding. Where the feed ends early
    /// that is no error: the layer is then taken from the store, when all is there.
    pub unpacked: BoxFuture<'a, Result<()>>,
}

/// The end that whoever stores a layer has.
pub struct Feed(Sender<Bytes>);

/// The end that whoever unpacks it has: a reader for threads that may block.
pub struct Incoming {
    pieces: Receiver<Bytes>,
    ahead: Bytes,
    ended: bool,
}

/// A new pair of both ends.
pub fn feed() -> (Feed, Incoming) {
    let (sender, pieces) = channel(AHEAD);
    let incoming = Incoming {
        pieces,
        ahead: Bytes::new(),
        ended: false,
    };
    (Feed(sender), incoming)
}

impl Feed {
    /// Hands on a piece. Whoever stopped to listen says himself why.
    async fn send(&self, piece: Bytes) {
        let _ = self.0.send(piece).await;
    }

    /// Says that the layer is whole and what it should be; without that, what was handed on is no
    /// layer.
    pub async fn end(self) {
        let _ = self.0.send(Bytes::new()).await;
    }
}

/// Writes a piece that is not empty, and hands it on where somebody listens.
///
/// # Errors
/// Those of [`Writer::write`].
pub async fn write_through(writer: &mut Writer, piece: Bytes, feed: Option<&Feed>) -> Result<()> {
    let Some(feed) = feed else {
        return writer.write(piece).await;
    };
    let (written, ()) = tokio::join!(writer.write(piece.clone()), feed.send(piece));
    written
}

impl Incoming {
    /// What comes next, for which it waits; nothing at the end.
    ///
    /// # Errors
    /// `Cancelled` when the feed ended before the layer did.
    pub fn peek(&mut self) -> Result<&[u8]> {
        if self.ahead.is_empty() && !self.ended {
            let piece = self.pieces.blocking_recv();
            self.ahead = piece.ok_or_else(|| Error::cancelled("the layer did not come"))?;
            self.ended = self.ahead.is_empty();
        }
        Ok(&self.ahead)
    }
}

impl Read for Incoming {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let read = self.peek()?.len().min(out.len());
        self.ahead.copy_to_slice(&mut out[..read]);
        Ok(read)
    }
}
