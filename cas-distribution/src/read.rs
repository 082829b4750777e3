//! Reads content as a stream. If a connection breaks or is too slow, the rest of the content is
//! read over another connection.

use std::ops::Range;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use cas_core::transfer::Pieces;
use cas_core::{Descriptor, Result};
use futures_util::{StreamExt, stream};
use tokio::sync::mpsc::{Receiver, Sender, channel};

use crate::client::Inner;
use crate::open::Opened;
use crate::pace::Pace;
use crate::retry::Failure;
use crate::{error, runtime};

/// Minimum size in bytes of a piece that is passed on, except the last of a connection. A chunk
/// from the network is about a tenth as large, and the store takes some time for each piece.
const PIECE: usize = 256 << 10;
/// Maximum number of pieces that are read ahead.
const AHEAD: usize = 4;

/// A range of some content that is being read.
pub(crate) struct Reading {
    inner: Arc<Inner>,
    descriptor: Descriptor,
    /// What was not passed on yet.
    rest: Range<u64>,
    sender: Sender<Result<Bytes>>,
}

/// How the reading of one answer ended.
enum End {
    /// All wanted bytes were read, or the content is shorter than its descriptor states.
    Done,
    /// The answer ended before the end of the range that was asked for.
    Short,
}

impl Reading {
    /// Requests the bytes `range` of some content, and reads up to [`AHEAD`] pieces ahead. If a
    /// connection breaks or is too slow, another one continues where it ended.
    ///
    /// # Errors
    /// As [`Inner::open`].
    pub(crate) async fn begin(
        inner: Arc<Inner>,
        descriptor: Descriptor,
        range: Range<u64>,
    ) -> Result<Pieces> {
        let patience = &mut inner.http.patience();
        let opened = inner.open(&descriptor, range.clone(), patience).await?;
        let (sender, receiver) = channel(AHEAD);
        let reading = Reading {
            inner,
            descriptor,
            rest: range,
            sender,
        };
        runtime::handle()?.spawn(async move {
            let sender = reading.sender.clone();
            let read = tokio::select! {
                () = sender.closed() => Ok(()),
                read = reading.read(opened) => read,
            };
            if let Err(error) = read {
                // The receiver may be gone.
                let _ = sender.send(Err(error)).await;
            }
        });
        let next = |mut receiver: Receiver<_>| async move {
            receiver.recv().await.map(|piece| (piece, receiver))
        };
        Ok(stream::unfold(receiver, next).boxed())
    }

    async fn read(mut self, mut opened: Opened) -> Result<()> {
        let mut patience = self.inner.http.patience();
        let least = self.inner.http.timeouts.least();
        loop {
            let before = self.rest.start;
            let url = opened.response.url().clone();
            let is_partial = opened.is_partial;
            let ended = self.read_answer(opened).await;
            let arrived = self.rest.start - before;
            if arrived >= least {
                patience.renew();
            }
            let failure = match ended {
                Ok(End::Done) => return Ok(()),
                _ if self.rest.is_empty() => return Ok(()),
                Ok(End::Short) if arrived >= least => None,
                Ok(End::Short) => Some(error::ended_early(&url)),
                Err(failure) => Some(failure),
            };
            match failure {
                None => {}
                Some(failure) if is_partial => match patience.wait_for_range(failure).await {
                    Err(error) if !patience.gave_up_ranges() => return Err(error),
                    // After a pause, the range is requested again. If this client has stopped
                    // asking for ranges, it requests the whole content, without a pause.
                    _ => {}
                },
                Some(failure) => patience.wait(failure).await?,
            }
            let rest = self.rest.clone();
            let again = self.inner.open(&self.descriptor, rest, &mut patience);
            opened = again.await?;
        }
    }

    /// Passes on the wanted bytes of an answer.
    async fn read_answer(&mut self, mut opened: Opened) -> Result<End, Failure> {
        let mut pace = Pace::new(&self.inner.http.timeouts);
        let mut gathered = BytesMut::with_capacity(PIECE);
        let mut at = 0;
        let ended = loop {
            let chunk = match pace.next(&mut opened.response).await {
                Ok(Some(chunk)) => chunk,
                Ok(None) => break Ok(()),
                Err(failure) => break Err(failure),
            };
            gathered.extend_from_slice(overlap(&chunk, at, &opened.kept));
            at += chunk.len() as u64;
            if at >= opened.kept.end {
                break Ok(());
            }
            if gathered.len() >= PIECE {
                self.pass_on(gathered.split().freeze()).await;
                gathered.reserve(PIECE);
            }
        };
        self.pass_on(gathered.freeze()).await;
        ended?;
        if self.rest.is_empty() {
            Ok(End::Done)
        } else if !opened.has_length() {
            Err(error::ended_early(opened.response.url()))
        } else if opened.is_partial {
            Ok(End::Short)
        } else {
            // The content is shorter than its descriptor states. The caller verifies it and reports
            // this.
            Ok(End::Done)
        }
    }

    async fn pass_on(&mut self, piece: Bytes) {
        if piece.is_empty() {
            return;
        }
        self.rest.start += piece.len() as u64;
        // If the receiver is gone, the task that `begin` has spawned ends.
        let _ = self.sender.send(Ok(piece)).await;
    }
}

/// `chunk` begins at the byte `at` of the answer. Returns the part of it that lies within `kept`.
fn overlap<'a>(chunk: &'a [u8], at: u64, kept: &Range<u64>) -> &'a [u8] {
    let length = chunk.len() as u64;
    let within = |position: u64| position.saturating_sub(at).min(length) as usize;
    let (start, end) = (within(kept.start), within(kept.end));
    &chunk[start..end.max(start)]
}
