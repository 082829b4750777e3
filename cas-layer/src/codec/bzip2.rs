//! Streams of bzip2.

use std::io::{self, BufRead, Read};

use bzip2::{Decompress, Status};

use super::input::Input;

/// One stream after the other. Each needs 4 MiB of memory at most.
pub(super) struct Bzip2<R> {
    pub(super) input: Input<R>,
    decoder: Decompress,
    ended: bool,
}

impl<R: Read> Bzip2<R> {
    pub(super) fn new(input: Input<R>) -> Self {
        Bzip2 {
            input,
            decoder: Decompress::new(false),
            ended: false,
        }
    }

    /// Begins the next stream.
    pub(super) fn restart(&mut self) {
        self.decoder = Decompress::new(false);
        self.ended = false;
    }

    /// Reads decompressed bytes of the stream. Returns 0 at its verified end.
    pub(super) fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        while !self.ended && !out.is_empty() {
            let available = self.input.fill_buf()?;
            let at_end = available.is_empty();
            let (consumed, produced) = (self.decoder.total_in(), self.decoder.total_out());
            match self.decoder.decompress(available, out) {
                Ok(Status::StreamEnd) => self.ended = true,
                Ok(Status::MemNeeded) => return Err(io::ErrorKind::OutOfMemory.into()),
                Ok(_) => {}
                Err(error) => return Err(io::Error::other(error)),
            }
            let consumed = (self.decoder.total_in() - consumed) as usize;
            let read = (self.decoder.total_out() - produced) as usize;
            self.input.consume(consumed);
            if read > 0 {
                return Ok(read);
            }
            if at_end && !self.ended {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(0)
    }
}
