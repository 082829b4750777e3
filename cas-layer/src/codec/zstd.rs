//! Frames of Zstandard.

use std::io::{self, Read};

use cas_core::limit;
use zstd::stream::raw::{DParameter, Decoder, InBuffer, Operation, OutBuffer};
use zstd::zstd_safe::get_frame_content_size;

use super::input::Input;

/// The maximum size of the header of a frame in bytes.
const HEADER: usize = 18;

/// Decompresses one frame after the other.
pub(super) struct Zstd<R> {
    pub(super) input: Input<R>,
    decoder: Decoder<'static>,
    /// Whether the frame is complete, and all of it was returned.
    ended: bool,
    /// Number of decompressed bytes of the frame that were returned. `None` before its beginning.
    produced: Option<u64>,
    /// Number of decompressed bytes that the header of the frame states.
    stated: Option<u64>,
}

impl<R: Read> Zstd<R> {
    pub(super) fn new(input: Input<R>) -> io::Result<Self> {
        let mut decoder = Decoder::new()?;
        decoder.set_parameter(DParameter::WindowLogMax(limit::ZSTD_WINDOW_LOG))?;
        Ok(Zstd {
            input,
            decoder,
            ended: false,
            produced: None,
            stated: None,
        })
    }

    /// Begins the next frame.
    pub(super) fn restart(&mut self) -> io::Result<()> {
        self.ended = false;
        self.produced = None;
        self.decoder.reinit()
    }

    /// Reads decompressed bytes of the frame. Returns 0 at its end. If the frame has a checksum, it
    /// has been verified by then.
    pub(super) fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let before = match self.produced {
            Some(before) => before,
            None => {
                let header = self.input.peek(HEADER)?;
                self.stated = get_frame_content_size(header).ok().flatten();
                0
            }
        };
        let read = self.step(out)?;
        let produced = before + read as u64;
        self.produced = Some(produced);
        // libzstd does not compare the sizes if the last block is empty and the frame arrives in
        // parts.
        match self.stated {
            Some(stated) if self.ended && stated != produced => Err(io::Error::other(format!(
                "a frame has {produced} decompressed bytes, but its header states {stated}"
            ))),
            _ => Ok(read),
        }
    }

    fn step(&mut self, out: &mut [u8]) -> io::Result<usize> {
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
