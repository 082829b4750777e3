//! Decompresses a layer, and records its checkpoints and the digests of its spans.

use std::io::{self, Read};

use cas_core::{Algorithm, Digest, Error, Hasher, Result, limit};
use cas_layer::codec::inflate::{Format, Inflate, Stop, Until, WINDOW};

use super::spans::Spans;
use crate::checkpoint::Checkpoint;
use crate::span::too_large;

/// Size in bytes of the buffer for compressed bytes.
const BUFFER: usize = 64 << 10;
/// The first byte of every gzip stream.
const MAGIC: u8 = 0x1f;

/// Reads the decompressed bytes of `R`.
pub(super) struct Gzip<R> {
    source: Source<R>,
    inflate: Inflate,
    /// The last decompressed bytes. After its end, writing continues at its beginning.
    window: Box<[u8]>,
    /// The ends of the written bytes and of the read bytes in the window.
    written: usize,
    read: usize,
    decompressed: u64,
    spans: Spans,
    checkpoints: Vec<Checkpoint>,
    digests: Vec<Digest>,
    ended: bool,
}

/// The result of reading a layer to its end.
pub(super) struct Known {
    pub(super) compressed_size: u64,
    pub(super) checkpoints: Vec<Checkpoint>,
    pub(super) digests: Vec<Digest>,
}

impl<R: Read> Gzip<R> {
    pub(super) fn new(input: R, spans: Spans) -> Result<Self> {
        Ok(Gzip {
            source: Source::new(input),
            inflate: Inflate::new(Format::Gzip)?,
            window: vec![0; WINDOW].into(),
            written: 0,
            read: 0,
            decompressed: 0,
            spans,
            checkpoints: Vec::new(),
            digests: Vec::new(),
            ended: false,
        })
    }

    /// Returns what was recorded. The layer must have been read to its end.
    pub(super) fn finish(mut self) -> Result<Known> {
        let hasher = self.source.hasher.take().filter(|_| self.ended);
        let hasher = hasher.ok_or_else(|| {
            Error::corrupt("the gzip stream has no deflate blocks; get an intact copy")
        })?;
        self.digests.push(hasher.finish());
        Ok(Known {
            compressed_size: self.source.consumed,
            checkpoints: self.checkpoints,
            digests: self.digests,
        })
    }

    /// Decompresses more bytes into the window, or finds the end.
    fn inflate(&mut self) -> Result<()> {
        if self.written == WINDOW {
            (self.written, self.read) = (0, 0);
        }
        let begins = self.source.consumed == 0;
        let input = self.source.fill()?;
        if begins && input.first().is_some_and(|&byte| byte != MAGIC) {
            return Err(Error::unsupported(
                "the layer is not compressed with gzip; compress it with gzip",
            ));
        }
        let room = &mut self.window[self.written..];
        let step = self.inflate.step(input, room, Until::Block)?;
        let starved = input.is_empty() && step.written == 0;
        self.source.consume(step.read);
        self.written += step.written;
        self.decompressed += step.written as u64;
        let begun = self.checkpoints.last().map_or(0, |last| last.decompressed);
        if self.decompressed - begun > limit::SPAN {
            return Err(too_large());
        }
        if self.decompressed > limit::LAYER {
            return Err(Error::out_of_range(format!(
                "the layer has more than the {} decompressed bytes allowed; build the image with \
                 smaller layers",
                limit::LAYER
            )));
        }
        match step.stop {
            Stop::Before { bits }
                if self.decompressed == 0 || self.spans.end(begun, self.decompressed) =>
            {
                self.checkpoint(bits)
            }
            Stop::End => self.end_member(),
            Stop::Within if starved => Err(Error::corrupt(
                "the gzip stream is damaged: it ends too early; get an intact copy",
            )),
            _ => Ok(()),
        }
    }

    fn checkpoint(&mut self, bits: u8) -> Result<()> {
        if self.checkpoints.len() == limit::SPANS {
            return Err(Error::out_of_range(format!(
                "the layer has more than the {} spans allowed; use a larger span size",
                limit::SPANS
            )));
        }
        let (newest, oldest) = self.window.split_at(self.written);
        self.checkpoints.push(Checkpoint {
            compressed: self.source.consumed,
            decompressed: self.decompressed,
            bits,
            window: [oldest, newest].concat().into(),
        });
        if let Some(digest) = self.source.begin_span(bits != 0) {
            self.digests.push(digest);
        }
        Ok(())
    }

    /// Begins the next member if there is one. Otherwise only zeros may follow.
    fn end_member(&mut self) -> Result<()> {
        if self.source.fill()?.first() == Some(&MAGIC) {
            return self.inflate.reset(Format::Gzip);
        }
        loop {
            let rest = self.source.fill()?;
            if rest.is_empty() {
                self.ended = true;
                return Ok(());
            }
            if rest.iter().any(|&byte| byte != 0) {
                return Err(Error::unsupported(
                    "other bytes than zeros follow the gzip stream; get an intact copy of the \
                     layer, or compress it again",
                ));
            }
            let length = rest.len();
            self.source.consume(length);
        }
    }
}

impl<R: Read> Read for Gzip<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        while self.read == self.written && !self.ended {
            self.inflate()?;
        }
        let available = &self.window[self.read..self.written];
        let amount = available.len().min(out.len());
        out[..amount].copy_from_slice(&available[..amount]);
        self.read += amount;
        Ok(amount)
    }
}

/// Compressed bytes, counted and hashed when they are consumed.
struct Source<R> {
    input: R,
    buffer: Box<[u8]>,
    start: usize,
    end: usize,
    consumed: u64,
    last: u8,
    /// The hash of the span. The header before the first block belongs to no span.
    hasher: Option<Hasher>,
}

impl<R: Read> Source<R> {
    fn new(input: R) -> Self {
        Source {
            input,
            buffer: vec![0; BUFFER].into(),
            start: 0,
            end: 0,
            consumed: 0,
            last: 0,
            hasher: None,
        }
    }

    /// Returns unread bytes. Returns an empty slice at the end.
    fn fill(&mut self) -> Result<&[u8]> {
        while self.start == self.end {
            match self.input.read(&mut self.buffer) {
                Ok(0) => break,
                Ok(read) => (self.start, self.end) = (0, read),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(&self.buffer[self.start..self.end])
    }

    fn consume(&mut self, amount: usize) {
        let taken = &self.buffer[self.start..self.start + amount];
        if let Some(hasher) = &mut self.hasher {
            hasher.update(taken);
        }
        self.last = taken.last().copied().unwrap_or(self.last);
        self.consumed += amount as u64;
        self.start += amount;
    }

    /// Begins a span. If `shared` is set, the last byte that was consumed is also the first byte of
    /// this span. Returns the digest of the span before, if there is one.
    fn begin_span(&mut self, shared: bool) -> Option<Digest> {
        let mut hasher = Hasher::new(Algorithm::Sha256);
        if shared {
            hasher.update(&[self.last]);
        }
        self.hasher.replace(hasher).map(Hasher::finish)
    }
}

#[cfg(test)]
mod tests {
    use cas_core::ErrorKind;

    use super::*;

    /// Returns the beginning of a gzip stream. Its block decompresses to one zero, and to 258 more
    /// zeros for each of the `matches`.
    fn one_block(matches: usize) -> Vec<u8> {
        let mut bytes = vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255];
        let (mut bits, mut count) = (0u32, 0);
        let mut put = |code: u32, length: u32| {
            for at in (0..length).rev() {
                bits |= (code >> at & 1) << count;
                count += 1;
                if count == 8 {
                    bytes.push(bits as u8);
                    (bits, count) = (0, 0);
                }
            }
        };
        // Not the last block, with the fixed codes.
        put(0b010, 3);
        put(0b0011_0000, 8);
        for _ in 0..matches {
            put(0b1100_0101, 8);
            put(0, 5);
        }
        bytes
    }

    fn read(layer: &[u8]) -> io::Result<u64> {
        io::copy(
            &mut Gzip::new(layer, Spans::new(1, Vec::new())).unwrap(),
            &mut io::sink(),
        )
    }

    #[test]
    fn a_span_has_as_many_bytes_as_are_allowed_and_no_more() {
        let kind = |matches| Error::from(read(&one_block(matches)).unwrap_err()).kind();
        let most = (limit::SPAN as usize - 1) / 258;
        // The block does not end.
        assert_eq!(kind(most), ErrorKind::Corrupt);
        // The last match may lack bits.
        assert_eq!(kind(most + 2), ErrorKind::OutOfRange);
    }

    #[test]
    fn a_layer_has_as_many_spans_as_are_allowed_and_no_more() {
        // Stored blocks of one byte.
        let layer = |blocks: usize| {
            let head = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255];
            [&head[..], &[0, 1, 0, 0xfe, 0xff, 7].repeat(blocks)].concat()
        };
        let kind = |blocks| {
            let layer = layer(blocks);
            let mut gzip = Gzip::new(&layer[..], Spans::new(0, Vec::new())).unwrap();
            let error = io::copy(&mut gzip, &mut io::sink()).unwrap_err();
            (Error::from(error).kind(), gzip.checkpoints.len())
        };
        assert_eq!(kind(limit::SPANS - 1), (ErrorKind::Corrupt, limit::SPANS));
        assert_eq!(kind(limit::SPANS), (ErrorKind::OutOfRange, limit::SPANS));
    }
}
