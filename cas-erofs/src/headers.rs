//! Reads the headers of a stored tar without the data between them.

use std::fs::File;
use std::io::{self, BufRead, ErrorKind, Read, Seek, SeekFrom};
use std::os::unix::fs::FileExt;

use cas_host::fill;

use crate::BLOCK;

/// Size in bytes of the buffer: a few headers.
const BUFFER: usize = 4 << 10;

/// Reads a file from a position. Changing the position costs nothing.
pub(crate) struct HeaderReader<'a> {
    file: &'a File,
    position: u64,
    /// Bytes of the file from `start` on.
    buffer: Vec<u8>,
    start: u64,
}

impl<'a> HeaderReader<'a> {
    pub(crate) fn new(file: &'a File) -> Self {
        HeaderReader {
            file,
            position: 0,
            buffer: Vec::with_capacity(BUFFER),
            start: 0,
        }
    }

    /// Returns the block at `offset`, or only its beginning if the file ends within the block. The
    /// position does not change.
    pub(crate) fn block(&mut self, offset: u64) -> io::Result<&[u8]> {
        if self.buffered(offset).len() < BLOCK as usize {
            self.fill(offset)?;
        }
        let found = self.buffered(offset);
        Ok(&found[..found.len().min(BLOCK as usize)])
    }

    /// Returns the bytes from `offset` on that are in the buffer.
    fn buffered(&self, offset: u64) -> &[u8] {
        let before = offset.checked_sub(self.start);
        let before = before.and_then(|before| usize::try_from(before).ok());
        before
            .and_then(|before| self.buffer.get(before..))
            .unwrap_or_default()
    }

    /// Fills the buffer with the bytes from `offset` on, as far as the file has them.
    fn fill(&mut self, offset: u64) -> io::Result<()> {
        self.start = offset;
        self.buffer.resize(BUFFER, 0);
        let filled = fill(self.file, &mut self.buffer, offset);
        self.buffer.truncate(*filled.as_ref().unwrap_or(&0));
        filled.map(drop)
    }
}

impl BufRead for HeaderReader<'_> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.buffered(self.position).is_empty() {
            self.fill(self.position)?;
        }
        Ok(self.buffered(self.position))
    }

    fn consume(&mut self, amount: usize) {
        self.position += amount as u64;
    }
}

impl Read for HeaderReader<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let read = if out.len() >= BUFFER && self.buffered(self.position).is_empty() {
            self.file.read_at(out, self.position)?
        } else {
            self.fill_buf()?.read(out)?
        };
        self.consume(read);
        Ok(read)
    }
}

impl Seek for HeaderReader<'_> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let position = match to {
            SeekFrom::Start(offset) => Some(offset),
            SeekFrom::Current(distance) => self.position.checked_add_signed(distance),
            SeekFrom::End(_) => None,
        };
        self.position = position.ok_or(ErrorKind::InvalidInput)?;
        Ok(self.position)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn bytes_are_those_of_the_file_wherever_the_position_goes() {
        let bytes: Vec<u8> = (0..20_000_u32).map(|at| ((at * 7) >> 3) as u8).collect();
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&bytes).unwrap();
        let mut reader = HeaderReader::new(&file);
        for (at, length) in [
            (0, 10),
            (3, 600),
            (9000, 5000),
            (4100, 1),
            (19_990, 100),
            (30_000, 5),
        ] {
            reader.seek(SeekFrom::Start(at as u64)).unwrap();
            let block = reader.block(at as u64 / 512 * 512).unwrap().to_vec();
            let expected = bytes.get(at / 512 * 512..).unwrap_or_default();
            assert!(
                block == expected[..expected.len().min(512)],
                "block at {at}"
            );
            let mut out = Vec::new();
            reader.by_ref().take(length).read_to_end(&mut out).unwrap();
            let expected = bytes.get(at..).unwrap_or_default();
            assert!(
                out == expected[..expected.len().min(length as usize)],
                "{at}"
            );
            assert_eq!(reader.stream_position().unwrap(), (at + out.len()) as u64);
        }
        assert!(reader.seek(SeekFrom::Current(-40_000)).is_err());
    }
}
