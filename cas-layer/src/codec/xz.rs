//! Streams of xz.

use std::io::{self, Read};

use cas_core::{Error, limit};
use lzma_rust2::XzReader;

use super::input::Input;

/// Maximum memory of one stream in KiB: the dictionary, and 1 MiB for everything else.
const MEMORY: u32 = (limit::XZ_DICTIONARY >> 10) as u32 + 1024;

/// Decompresses one stream after the other. The dictionary grows with the decompressed data.
pub(super) struct Xz<R: Read> {
    /// Absent only while the next stream begins.
    reader: Option<XzReader<Input<R>>>,
}

impl<R: Read> Xz<R> {
    pub(super) fn new(input: Input<R>) -> Self {
        Xz {
            reader: Some(reader(input)),
        }
    }

    /// Begins the next stream.
    pub(super) fn restart(&mut self) {
        self.reader = self.reader.take().map(|ended| reader(ended.into_inner()));
    }

    pub(super) fn input(&self) -> Option<&Input<R>> {
        self.reader.as_ref().map(XzReader::inner)
    }

    pub(super) fn input_mut(&mut self) -> Option<&mut Input<R>> {
        self.reader.as_mut().map(XzReader::inner_mut)
    }

    /// Reads decompressed bytes of the stream. Returns 0 at its verified end.
    pub(super) fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let Some(reader) = self.reader.as_mut().filter(|_| !out.is_empty()) else {
            return Ok(0);
        };
        reader.read(out).map_err(|error| match error.kind() {
            io::ErrorKind::OutOfMemory => too_large(error),
            io::ErrorKind::Unsupported => Error::unsupported(format!(
                "the xz stream needs a filter or a checksum that is not supported: {error}; \
                 compress the data again without this filter or checksum"
            ))
            .source(error)
            .into(),
            _ => error,
        })
    }
}

fn too_large(error: io::Error) -> io::Error {
    let allowed = limit::XZ_DICTIONARY;
    Error::out_of_range(format!(
        "the xz stream needs a larger dictionary than the {allowed} bytes allowed; compress it \
         again with a smaller dictionary"
    ))
    .source(error)
    .into()
}

fn reader<R: Read>(input: Input<R>) -> XzReader<Input<R>> {
    XzReader::new_mem_limit(input, false, MEMORY)
}
