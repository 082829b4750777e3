//! The threads that decompress and hash, and the messages that they send.

use std::io::Read;
use std::sync::mpsc::{Receiver, Sender};
use std::thread;

use cas_core::{Context, Descriptor, Digest, Error, Hasher, Result};

use super::feed::{Piece, Stored};
use super::{BUFFER, Found, LayerCheckpoints};
use crate::codec::{Compression, Decoder, Recorder, Spans, span_threads};

/// The blob of a layer.
pub(super) struct Blob {
    pub(super) descriptor: Descriptor,
    pub(super) compression: Compression,
    pub(super) checkpoints: Option<LayerCheckpoints>,
}

/// What one thread sends to the next, in the order of the bytes.
pub(super) enum Message {
    /// Decompressed bytes: all of the vector.
    Bytes(Vec<u8>),
    /// The layer is complete and, if the second thread sends this, verified.
    End,
    /// The layer failed, and with it the pipeline.
    Failed(Error),
}

/// The first thread: decompresses blobs.
pub(super) struct Inflater {
    pieces: Receiver<Piece>,
    output: Output,
}

/// The way of the decompressed bytes to the second thread.
struct Output {
    bytes: Sender<Message>,
    free: Receiver<Vec<u8>>,
    /// A buffer that was left over at the end of a layer.
    spare: Option<Vec<u8>>,
}

/// The other end of a channel was dropped, because the pipeline failed in another thread. The error
/// is reported there.
struct Closed;

impl Inflater {
    pub(super) fn new(
        pieces: Receiver<Piece>,
        out: Sender<Message>,
        free: Receiver<Vec<u8>>,
    ) -> Self {
        Inflater {
            pieces,
            output: Output {
                bytes: out,
                free,
                spare: None,
            },
        }
    }

    pub(super) fn run(mut self, layers: &[Blob]) {
        for blob in layers {
            let digest = blob.descriptor.digest;
            let last = match self.layer(blob) {
                Ok(Ok(())) => Message::End,
                Ok(Err(Closed)) => return,
                Err(error) => Message::Failed(error.operation("read layer").subject(digest)),
            };
            let failed = matches!(last, Message::Failed(_));
            if self.output.bytes.send(last).is_err() || failed {
                return;
            }
        }
    }

    fn layer(&mut self, blob: &Blob) -> Result<std::result::Result<(), Closed>> {
        let mut stored = Stored::new(&self.pieces);
        let decompressed = self.output.decompress(&mut stored, blob)?;
        let Ok((read, found)) = decompressed else {
            return Ok(Err(Closed));
        };
        let size = blob.descriptor.size;
        if read != size {
            return Err(Error::corrupt(format!(
                "expected a blob of {size} bytes, found {read} bytes; pull or import the \
                 image again"
            )));
        }
        stored.finish()?;
        if let Some(checkpoints) = &blob.checkpoints {
            checkpoints.set(found);
        }
        Ok(Ok(()))
    }
}

impl Output {
    /// Decompresses a blob and sends the bytes. Returns the number of compressed bytes, and what
    /// was found out about checkpoints.
    fn decompress(
        &mut self,
        stored: &mut Stored,
        blob: &Blob,
    ) -> Result<std::result::Result<(u64, Found), Closed>> {
        let known = blob.checkpoints.as_ref().and_then(|all| all.known.as_ref());
        let threads = span_threads();
        let in_parallel = threads > 1 && blob.compression == Compression::Gzip;
        if let Some(known) = known.filter(|known| in_parallel && known.are_close()) {
            return thread::scope(|scope| {
                let mut spans = Spans::new(stored, known.clone(), threads, scope);
                let sent = self.send_all(&mut spans)?;
                Ok(sent.map(|()| {
                    let read = spans.consumed();
                    let (spans, recorded) = spans.finish();
                    (read, Found { recorded, spans })
                }))
            });
        }
        let mut decoder = Decoder::new(stored, blob.compression)?;
        if blob.checkpoints.is_some() && known.is_none() {
            decoder.record(Recorder::new());
        }
        let sent = self.send_all(&mut decoder)?;
        Ok(sent.map(|()| {
            let read = decoder.consumed();
            let recorded = decoder.recorded();
            (read, Found { recorded, spans: 0 })
        }))
    }

    /// Sends all bytes of `decoder`.
    fn send_all(&mut self, decoder: &mut impl Read) -> Result<std::result::Result<(), Closed>> {
        loop {
            let free = self.spare.take().map_or_else(|| self.free.recv(), Ok);
            let Ok(mut buffer) = free else {
                return Ok(Err(Closed));
            };
            let filled = fill(decoder, &mut buffer)?;
            if filled == 0 {
                self.spare = Some(buffer);
                return Ok(Ok(()));
            }
            buffer.truncate(filled);
            if self.bytes.send(Message::Bytes(buffer)).is_err() {
                return Ok(Err(Closed));
            }
        }
    }
}

/// Reads until the buffer is full or the stream ends. Returns the number of bytes read.
fn fill(source: &mut impl Read, buffer: &mut Vec<u8>) -> Result<usize> {
    buffer.resize(BUFFER, 0);
    let mut filled = 0;
    while filled < buffer.len() {
        match source.read(&mut buffer[filled..])? {
            0 => break,
            read => filled += read,
        }
    }
    Ok(filled)
}

/// The second thread: hashes the decompressed bytes of each layer, and compares the result with its
/// diff ID.
pub(super) fn verify(
    diff_ids: &[Option<Digest>],
    inflated: &Receiver<Message>,
    out: &Sender<Message>,
) {
    for diff_id in diff_ids {
        let mut hash = diff_id.map(|diff_id| Hasher::new(diff_id.algorithm()));
        loop {
            let message = match inflated.recv() {
                Ok(Message::Bytes(bytes)) => {
                    if let Some(hash) = &mut hash {
                        hash.update(&bytes);
                    }
                    Message::Bytes(bytes)
                }
                Ok(Message::End) => break,
                Ok(failed) => failed,
                Err(_) => return,
            };
            if out.send(message).is_err() {
                return;
            }
        }
        let last = match compare(hash.map(Hasher::finish), *diff_id) {
            Ok(()) => Message::End,
            Err(error) => Message::Failed(error),
        };
        let failed = matches!(last, Message::Failed(_));
        if out.send(last).is_err() || failed {
            return;
        }
    }
}

fn compare(found: Option<Digest>, expected: Option<Digest>) -> Result<()> {
    let (Some(found), Some(expected)) = (found, expected) else {
        return Ok(());
    };
    if found == expected {
        return Ok(());
    }
    Err(Error::corrupt(format!(
        "expected a layer that decompresses to this diff ID, found {found}; pull or import the \
         image again"
    )))
    .during("verify layer", expected)
}
