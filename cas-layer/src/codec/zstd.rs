//! Frames of Zstandard.

use std::io::{self, BufRead, Read};

use cas_core::limit;
use zstd::stream::raw::{DParameter, Decoder, InBuffer, Operation, OutBuffer};

use super::input::Input;

/// One frame after the other.
pub(super) struct Zstd<R> {
    pub(super) input: Input<R>,
    decoder: Decoder<'static>,
    /// Whether the frame is complete, and all of it was returned.
    ended: bool,
}

impl<R: Read> Zstd<R> {
    pub(super) fn new(input: Input<R>) -> io::Result<Self> {
        let mut decoder = Decoder::new()?;
        decoder.set_parameter(DParameter::WindowLogMax(limit::ZSTD_WINDOW_LOG))?;
        Ok(Zstd {
            input,
            decoder,
            ended: false,
        })
    }

    /// Begins the next frame.
    pub(super) fn restart(&mut self) -> io::Result<()> {
        self.ended = false;
        self.decoder.reinit()
    }

    /// Reads decompressed bytes of the frame. Returns 0 at its verified end.
    pub(super) fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        while !self.ended && !out.is_empty() {
            let available = self.input.fill_buf()?;
            let at_end = available.is_empty();
            let mut input = InBuffer::around(available);
            let mut output = OutBuffer::around(&mut *out);
            self.ended = self.decoder.run(&mut input, &mut output)? == 0;
            let (consumed, read) = (input.pos(), output.pos());
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
