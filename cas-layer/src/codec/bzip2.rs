//! Streams of bzip2.

use std::io::{self, Read};

use bzip2::{Decompress, Status};
use cas_core::{Error, limit};

use super::input::Input;

/// Decompresses one stream after the other. A stream needs at most 4 MiB of memory.
pub(super) struct Bzip2<R> {
    pub(super) input: Input<R>,
    decoder: Decompress,
    ended: bool,
    /// The number of streams before this one.
    streams: u64,
    /// The number of decompressed bytes of these streams.
    produced: u64,
}

impl<R: Read> Bzip2<R> {
    pub(super) fn new(input: Input<R>) -> Self {
        Bzip2 {
            input,
            decoder: Decompress::new(false),
            ended: false,
            streams: 0,
            produced: 0,
        }
    }

    /// Begins the next stream.
    ///
    /// # Errors
    /// `OutOfRange` for more streams than [`limit::BZIP2_STREAMS`] allows.
    pub(super) fn restart(&mut self) -> io::Result<()> {
        self.streams += 1;
        self.produced += self.decoder.total_out();
        let most = limit::BZIP2_STREAMS + self.produced / limit::BZIP2_STREAM;
        if self.streams >= most {
            return Err(Error::out_of_range(format!(
                "found more than {most} bzip2 streams with only {} decompressed bytes in total; \
                 compress the data again as one stream",
                self.produced
            ))
            .into());
        }
        self.decoder = Decompress::new(false);
        self.ended = false;
        Ok(())
    }

    /// Reads decompressed bytes of the stream. Returns 0 at its verified end.
    pub(super) fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let decoder = &mut self.decoder;
        self.input
            .decompress(out, &mut self.ended, |available, out| {
                let (consumed, produced) = (decoder.total_in(), decoder.total_out());
                let status = decoder.decompress(available, out);
                let has_ended = match status.map_err(io::Error::other)? {
                    Status::StreamEnd => true,
                    Status::MemNeeded => return Err(io::ErrorKind::OutOfMemory.into()),
                    _ => false,
                };
                let taken = (decoder.total_in() - consumed) as usize;
                let written = (decoder.total_out() - produced) as usize;
                Ok((taken, written, has_ended))
            })
    }
}
