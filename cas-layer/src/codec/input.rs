//! The compressed input, and the check of the bytes that follow a member (a gzip member, a zstd
//! frame, or a stream of xz or bzip2).

use std::io::{self, BufRead, ErrorKind, Read};

use cas_core::Error;

use super::format::{self, Compression};

/// Size in bytes of the input buffer.
const INPUT: usize = 256 << 10;

/// The source, with a buffer, a byte count, and classified errors.
pub(super) struct Input<R> {
    source: R,
    buffer: Box<[u8]>,
    start: usize,
    end: usize,
    pub(super) total: u64,
}

impl<R: Read> Input<R> {
    pub(super) fn new(source: R) -> Self {
        Self::at(source, 0)
    }

    /// Creates the input of a stream whose first `total` bytes were read already.
    pub(super) fn at(source: R, total: u64) -> Self {
        Input {
            source,
            buffer: vec![0; INPUT].into_boxed_slice(),
            start: 0,
            end: 0,
            total,
        }
    }

    /// Returns the number of bytes of the stream that were consumed.
    pub(super) fn position(&self) -> u64 {
        self.total - (self.end - self.start) as u64
    }

    /// Reads decompressed bytes of a stream. `step` decompresses some of the bytes that it is
    /// given, and returns how many it took, how many it wrote, and whether the stream has `ended`.
    /// Returns 0 at the end of the stream.
    pub(super) fn decompress(
        &mut self,
        out: &mut [u8],
        ended: &mut bool,
        mut step: impl FnMut(&[u8], &mut [u8]) -> io::Result<(usize, usize, bool)>,
    ) -> io::Result<usize> {
        while !*ended && !out.is_empty() {
            let available = self.fill_buf()?;
            let at_end = available.is_empty();
            let (taken, written, has_ended) = step(available, out)?;
            *ended = has_ended;
            self.consume(taken);
            if written > 0 {
                return Ok(written);
            }
            if at_end && !*ended {
                return Err(ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(0)
    }

    /// Returns whether another member follows. The member before must have ended. Zeros between and
    /// after members, which tapes and block devices leave, are skipped.
    ///
    /// # Errors
    /// `Unsupported` for other bytes; errors of the source.
    pub(super) fn has_member(&mut self, compression: Compression) -> io::Result<bool> {
        loop {
            let rest = self.fill_buf()?;
            let zeros = rest.iter().take_while(|byte| **byte == 0).count();
            if rest.is_empty() {
                return Ok(false);
            }
            self.consume(zeros);
            if self.start < self.end {
                break;
            }
        }
        let rest = self.peek(format::MAGIC)?;
        if format::continues(compression, rest) {
            return Ok(true);
        }
        let what = format::described(rest);
        let at = self.position();
        Err(Error::unsupported(format!(
            "{what} follow the {compression} stream, from byte {at} on; cut them off, or compress \
             the whole file again"
        ))
        .into())
    }

    /// Returns the next bytes: as many as `length`, or all that are left.
    pub(super) fn peek(&mut self, length: usize) -> io::Result<&[u8]> {
        while self.end - self.start < length {
            self.buffer.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
            let room = &mut self.buffer[self.end..];
            match Self::pull(&mut self.source, room, &mut self.total)? {
                0 => break,
                read => self.end += read,
            }
        }
        let end = self.end.min(self.start + length);
        Ok(&self.buffer[self.start..end])
    }

    fn pull(source: &mut R, out: &mut [u8], total: &mut u64) -> io::Result<usize> {
        loop {
            match source.read(out) {
                Ok(read) => {
                    *total += read as u64;
                    return Ok(read);
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(Error::from(error).into()),
            }
        }
    }
}

impl<R: Read> Read for Input<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        // A large buffer, as for an uncompressed stream, is filled directly from the source. A
        // small one, as for the header of a gzip member, is filled from the buffer of this reader.
        if self.start == self.end && out.len() >= self.buffer.len() {
            return Self::pull(&mut self.source, out, &mut self.total);
        }
        let available = self.fill_buf()?;
        let read = available.len().min(out.len());
        out[..read].copy_from_slice(&available[..read]);
        self.consume(read);
        Ok(read)
    }
}

impl<R: Read> BufRead for Input<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.start == self.end {
            self.start = 0;
            self.end = 0;
            self.end = Self::pull(&mut self.source, &mut self.buffer, &mut self.total)?;
        }
        Ok(&self.buffer[self.start..self.end])
    }

    fn consume(&mut self, amount: usize) {
        self.start = (self.start + amount).min(self.end);
    }
}
