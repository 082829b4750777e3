//! Bodies of requests and answers as streams.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::{Bytes, BytesMut};
use cas_core::Result;
use cas_core::transfer::Pieces;
use futures_util::{StreamExt, stream};
use reqwest::{Body, Response, Url};
use tokio::sync::mpsc::{Sender, channel};

use crate::{error, http, runtime};

/// Minimum size in bytes of a piece that is passed on, except the last. A chunk from the network is
/// about a tenth as large, and each piece costs the store a step.
const PIECE: usize = 256 << 10;
/// Maximum number of pieces that are read ahead.
const AHEAD: usize = 4;

/// Returns the bytes `kept` of the body of a response, read ahead a little. The bytes after them
/// are not read.
pub(crate) fn stream(response: Response, kept: Range<u64>) -> Result<Pieces> {
    let (sender, receiver) = channel(AHEAD);
    runtime::handle()?.spawn(async move {
        if let Err(error) = pump(response, kept, &sender).await {
            // The receiver may be gone.
            let _ = sender.send(Err(error)).await;
        }
    });
    let next = |mut receiver: tokio::sync::mpsc::Receiver<_>| async move {
        receiver.recv().await.map(|piece| (piece, receiver))
    };
    Ok(stream::unfold(receiver, next).boxed())
}

async fn pump(
    mut response: Response,
    kept: Range<u64>,
    sender: &Sender<Result<Bytes>>,
) -> Result<()> {
    let mut gathered = BytesMut::with_capacity(PIECE);
    let mut at = 0;
    loop {
        let chunk = tokio::select! {
            () = sender.closed() => return Ok(()),
            chunk = http::chunk(&mut response) => chunk?,
        };
        let ended = chunk.is_none();
        let chunk = chunk.unwrap_or_default();
        gathered.extend_from_slice(overlap(&chunk, at, &kept));
        at += chunk.len() as u64;
        let ended = ended || at >= kept.end;
        if gathered.len() >= PIECE || ended && !gathered.is_empty() {
            let piece = gathered.split().freeze();
            if sender.send(Ok(piece)).await.is_err() {
                return Ok(());
            }
            gathered.reserve(PIECE);
        }
        if ended {
            return Ok(());
        }
    }
}

/// Returns the part of `chunk`, which begins at the byte `at`, that lies within `kept`.
fn overlap<'a>(chunk: &'a [u8], at: u64, kept: &Range<u64>) -> &'a [u8] {
    let length = chunk.len() as u64;
    let within = |position: u64| position.saturating_sub(at).min(length) as usize;
    let (start, end) = (within(kept.start), within(kept.end));
    &chunk[start..end.max(start)]
}

/// Counts the bytes of an upload that were sent.
#[derive(Clone, Default)]
pub(crate) struct Sent(Arc<AtomicU64>);

impl Sent {
    /// Returns a body of `pieces` whose bytes are counted as they are sent.
    pub(crate) fn body(&self, pieces: Pieces) -> Body {
        let sent = Arc::clone(&self.0);
        Body::wrap_stream(pieces.inspect(move |piece| {
            let length = piece.as_ref().map_or(0, Bytes::len);
            sent.fetch_add(length as u64, Ordering::Relaxed);
        }))
    }

    /// Waits for the answer to an upload of `size` bytes, as long as bytes are being sent. Once all
    /// are sent, waits `extra` times [`http::IDLE`] longer, because the registry may have to copy
    /// and hash the blob. Returns the answer.
    ///
    /// # Errors
    /// `Unavailable` if the upload stalls.
    pub(crate) async fn watch<T>(
        &self,
        answer: impl Future<Output = T>,
        url: &Url,
        size: u64,
        extra: u32,
    ) -> Result<T> {
        let mut answer = std::pin::pin!(answer);
        let (mut before, mut still) = (0, 0);
        loop {
            tokio::select! {
                answered = &mut answer => return Ok(answered),
                () = tokio::time::sleep(http::IDLE) => {}
            }
            let now = self.0.load(Ordering::Relaxed);
            still = if now == before { still + 1 } else { 0 };
            before = now;
            if still > if now == size { extra } else { 0 } {
                return Err(error::silent(url, http::IDLE * still));
            }
        }
    }
}
