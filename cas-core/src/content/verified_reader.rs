//! A blob as a stream of bytes, verified at its end.

use std::future::poll_fn;
use std::io::{self, Read};
use std::mem;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use futures_util::stream::{self, BoxStream, StreamExt};
use tokio::io::{AsyncRead, ReadBuf};

use super::BlobReader;
use super::hashing::Hashing;
use crate::digest::Digest;
use crate::error::{Error, ErrorKind, REPAIR_BYTES, Result};
use crate::pool;

/// Maximum number of bytes in one read from the store.
const PIECE: usize = 1 << 20;

/// Reads a blob from its first byte to its last, and verifies it. If the size or the digest of the
/// bytes is wrong, the reader returns an error instead of the end. A caller that stops before the
/// end has verified nothing.
///
/// The reader implements [`AsyncRead`], and [`Read`] for callers that may block. The reader holds a
/// few MiB in memory, whatever the size of the blob.
pub struct VerifiedReader {
    digest: Digest,
    size: u64,
    pieces: State,
    /// Bytes that were read from the store and not returned yet.
    buffered: Bytes,
}

enum State {
    Reading(BoxStream<'static, Result<Bytes>>),
    Verified,
    Failed,
}

impl VerifiedReader {
    /// Returns a reader of the blob that `reader` has open. The bytes are checked against `digest`.
    pub fn new(reader: Arc<dyn BlobReader>, digest: Digest) -> Self {
        VerifiedReader {
            digest,
            size: reader.size(),
            pieces: State::Reading(pieces(reader, digest)),
            buffered: Bytes::new(),
        }
    }

    /// Returns the same reader. If it finds that the bytes are damaged, it first waits for `note`,
    /// and then returns the error.
    #[must_use]
    pub(crate) fn on_damage(mut self, note: impl Future<Output = ()> + Send + 'static) -> Self {
        self.pieces = match self.pieces {
            State::Reading(pieces) => State::Reading(noting(pieces, note)),
            ended => ended,
        };
        self
    }

    /// Returns the digest of the blob.
    pub fn digest(&self) -> &Digest {
        &self.digest
    }

    /// Returns the length of the blob in bytes, as the store states it. The length is verified once
    /// the reader has reached the end.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Returns the next bytes, at least one, or `None` at the end.
    ///
    /// # Errors
    /// `Corrupt` instead of the end if the size or the digest is wrong; errors of the store;
    /// `FailedPrecondition` after an earlier error.
    pub async fn next(&mut self) -> Result<Option<Bytes>> {
        if !self.buffered.is_empty() {
            return Ok(Some(mem::take(&mut self.buffered)));
        }
        poll_fn(|context| self.poll_piece(context)).await
    }

    fn poll_piece(&mut self, context: &mut Context<'_>) -> Poll<Result<Option<Bytes>>> {
        let pieces = match &mut self.pieces {
            State::Reading(pieces) => pieces,
            State::Verified => return Poll::Ready(Ok(None)),
            State::Failed => return Poll::Ready(Err(failed().subject(self.digest))),
        };
        let piece = ready!(pieces.poll_next_unpin(context)).transpose();
        match &piece {
            Ok(Some(_)) => {}
            Ok(None) => self.pieces = State::Verified,
            Err(_) => self.pieces = State::Failed,
        }
        let digest = self.digest;
        Poll::Ready(piece.map_err(|error| error.operation("read blob").subject(digest)))
    }
}

impl AsyncRead for VerifiedReader {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.buffered.is_empty() && out.remaining() > 0 {
            self.buffered = ready!(self.poll_piece(context))?.unwrap_or_default();
        }
        let length = self.buffered.len().min(out.remaining());
        out.put_slice(&self.buffered.split_to(length));
        Poll::Ready(Ok(()))
    }
}

impl Read for VerifiedReader {
    /// Waits for the store, so do not call it on a thread that runs async tasks.
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if self.buffered.is_empty() && !out.is_empty() {
            self.buffered = pool::wait(self.next())?.unwrap_or_default();
        }
        let length = self.buffered.len().min(out.len());
        self.buffered.copy_to_slice(&mut out[..length]);
        Ok(length)
    }
}

/// Returns the bytes of a blob. If the bytes are wrong, an error follows the last of them.
fn pieces(reader: Arc<dyn BlobReader>, digest: Digest) -> BoxStream<'static, Result<Bytes>> {
    let begun = (reader, Hashing::new(digest.algorithm()), 0);
    let pieces = stream::try_unfold(begun, move |(reader, hashing, at)| async move {
        let piece = reader.read_at(at, PIECE).await?;
        if piece.is_empty() {
            check(&*reader, at, &hashing.digest().await, &digest)?;
            return Ok(None);
        }
        hashing.push(piece.clone());
        hashing.keep_up().await;
        let next = at + piece.len() as u64;
        Ok(Some((piece, (reader, hashing, next))))
    });
    pieces.boxed()
}

/// Returns the same pieces. If one of them is the error `Corrupt`, first waits for `note`.
fn noting(
    pieces: BoxStream<'static, Result<Bytes>>,
    note: impl Future<Output = ()> + Send + 'static,
) -> BoxStream<'static, Result<Bytes>> {
    let mut note = Some(note);
    let noted = pieces.then(move |piece| {
        let is_damaged = |error: &Error| error.kind() == ErrorKind::Corrupt;
        let note = note.take_if(|_| piece.as_ref().is_err_and(is_damaged));
        async move {
            if let Some(note) = note {
                note.await;
            }
            piece
        }
    });
    noted.boxed()
}

fn check(reader: &dyn BlobReader, read: u64, found: &Digest, digest: &Digest) -> Result<()> {
    let size = reader.size();
    if read != size {
        let why = format!("the stored blob is damaged: expected {size} bytes, found {read}");
        return Err(Error::corrupt(why).advice(REPAIR_BYTES));
    }
    if found != digest {
        let why = format!("the stored blob is damaged: its bytes hash to {found}");
        return Err(Error::corrupt(why).advice(REPAIR_BYTES));
    }
    Ok(())
}

fn failed() -> Error {
    Error::precondition("an earlier read failed; open the blob again").operation("read blob")
}

#[cfg(test)]
mod tests {
    use async_trait::async_trait;

    use super::*;

    /// The bytes of a blob, and the size that the store states. In a damaged store, the two differ.
    struct Stored(Bytes, u64);

    #[async_trait]
    impl BlobReader for Stored {
        fn size(&self) -> u64 {
            self.1
        }

        async fn read_at(&self, offset: u64, length: usize) -> Result<Bytes> {
            let begin = self.0.len().min(offset as usize);
            Ok(self.0.slice(begin..self.0.len().min(begin + length)))
        }
    }

    /// Returns a reader of `data` under the digest of `promised`.
    fn reader(data: &Bytes, size: usize, promised: &[u8]) -> VerifiedReader {
        let stored = Arc::new(Stored(data.clone(), size as u64));
        VerifiedReader::new(stored, Digest::sha256(promised))
    }

    async fn all(mut reader: VerifiedReader) -> io::Result<Vec<u8>> {
        let mut data = Vec::new();
        loop {
            let mut piece = [0; 70_000];
            let mut buffer = ReadBuf::new(&mut piece);
            poll_fn(|context| Pin::new(&mut reader).poll_read(context, &mut buffer)).await?;
            if buffer.filled().is_empty() {
                return Ok(data);
            }
            data.extend_from_slice(buffer.filled());
        }
    }

    #[test]
    fn all_bytes_come_in_both_forms_and_then_the_end() {
        for length in [0, 1, PIECE - 1, PIECE, PIECE + 1, 3 * PIECE] {
            let data = Bytes::from(vec![7; length]);
            let open = || reader(&data, length, &data);
            assert_eq!(
                (open().size(), *open().digest()),
                (length as u64, Digest::sha256(&data))
            );
            assert_eq!(pool::wait(all(open())).unwrap(), data);
            let (mut blocking, mut read) = (open(), Vec::new());
            assert_eq!(blocking.read_to_end(&mut read).unwrap(), length);
            assert_eq!(read, data);
            assert_eq!(
                blocking.read(&mut [0; 8]).unwrap(),
                0,
                "the end stays the end"
            );
        }
    }

    #[test]
    fn a_wrong_byte_or_length_is_an_error_instead_of_the_end() {
        let data = Bytes::from(vec![7; PIECE + 5]);
        let flipped = {
            let mut flipped = data.to_vec();
            flipped[PIECE] = 8;
            Bytes::from(flipped)
        };
        let truncated = data.slice(..PIECE);
        let extended = Bytes::from([&data[..], b"x"].concat());
        for (stored, size) in [
            (&flipped, data.len()),
            (&truncated, data.len()),
            (&truncated, PIECE),
            (&extended, extended.len()),
            (&extended, data.len()),
        ] {
            let error = pool::wait(all(reader(stored, size, &data))).unwrap_err();
            assert_eq!(Error::from(error).kind(), ErrorKind::Corrupt);
            let mut blocking = reader(stored, size, &data);
            let error = blocking.read_to_end(&mut Vec::new()).unwrap_err();
            assert_eq!(Error::from(error).kind(), ErrorKind::Corrupt);
            let again = Error::from(blocking.read(&mut [0; 8]).unwrap_err());
            assert_eq!(again.kind(), ErrorKind::FailedPrecondition, "{again}");
        }
    }

    #[test]
    fn pieces_and_bytes_can_be_read_in_turn() {
        let data = Bytes::from_static(b"in turn");
        let mut reader = reader(&data, data.len(), &data);
        let mut first = [0; 3];
        reader.read_exact(&mut first).unwrap();
        assert_eq!(&first, b"in ");
        assert_eq!(pool::wait(reader.next()).unwrap().unwrap(), "turn");
        assert_eq!(pool::wait(reader.next()).unwrap(), None);
    }
}
