//! Frames of Zstandard.

use std::io::{self, Read};

use cas_core::limit;
use zstd::stream::raw::{DParameter, Decoder, InBuffer, Operation, OutBuffer};

use super::input::Input;

/// Decompresses one frame after the other.
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

    /// Reads decompressed bytes of the frame. Returns 0 at its end, after its checksum, if it has
    /// one, was verified.
    pub(super) fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let decoder = &mut self.decoder;
        self.input
            .decompress(out, &mut self.ended, |available, out| {
                let mut input = InBuffer::around(available);
                let mut output = OutBuffer::around(out);
                let has_ended = decoder.run(&mut input, &mut output)? == 0;
                Ok((input.pos(), output.pos(), has_ended))
            })
    }
}
