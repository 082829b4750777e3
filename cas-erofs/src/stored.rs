//! An archive that is stored while it is read.

use std::fs::File;
use std::io::{self, BufRead, BufWriter, Read, Write};

use cas_layer::read_buffered;

use crate::BLOCK;

/// Size in bytes of the buffer for writes to the file.
const BUFFER: usize = 256 << 10;

/// Reads an archive, and writes to a file what its caller has read. Keeps a copy of one block, in
/// which the caller can check the bytes after the data of a member.
pub(crate) struct StoredReader<'a> {
    input: &'a mut dyn BufRead,
    file: BufWriter<&'a File>,
    /// The error of a failed write, until a method returns it.
    failed: Option<io::Error>,
    /// Number of bytes that the caller has read.
    position: u64,
    /// Offset of the block that is kept.
    kept_at: u64,
    kept: Vec<u8>,
}

impl<'a> StoredReader<'a> {
    pub(crate) fn new(input: &'a mut dyn BufRead, file: &'a File) -> Self {
        StoredReader {
            input,
            file: BufWriter::with_capacity(BUFFER, file),
            failed: None,
            position: 0,
            kept_at: 0,
            kept: Vec::new(),
        }
    }

    pub(crate) fn position(&self) -> u64 {
        self.position
    }

    /// Keeps a copy of the block at `offset` when it is read, instead of the block that was kept
    /// before. The block must not have been read yet.
    pub(crate) fn keep_block(&mut self, offset: u64) {
        self.kept_at = offset;
        self.kept.clear();
    }

    /// Returns what has been read of the kept block.
    pub(crate) fn kept_block(&self) -> &[u8] {
        &self.kept
    }

    /// Writes what is buffered. Returns the number of bytes that were read, which is the length of
    /// the archive if it was read to its end.
    pub(crate) fn finish(mut self) -> io::Result<u64> {
        match self.failed.take() {
            Some(error) => Err(error),
            None => self.file.flush().map(|()| self.position),
        }
    }
}

impl BufRead for StoredReader<'_> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        match self.failed.take() {
            Some(error) => Err(error),
            None => self.input.fill_buf(),
        }
    }

    /// Writes the bytes. If that fails, the next `fill_buf` or `finish` returns the error.
    fn consume(&mut self, amount: usize) {
        // This reads nothing new: the caller has received these bytes from the buffer.
        let bytes = match self.input.fill_buf() {
            Ok(buffered) => &buffered[..amount],
            Err(error) => {
                self.failed = Some(error);
                return;
            }
        };
        if let Err(error) = self.file.write_all(bytes) {
            self.failed = Some(error);
        }
        let end = self.position + amount as u64;
        let (from, to) = (
            self.kept_at.max(self.position),
            (self.kept_at + BLOCK).min(end),
        );
        if from < to {
            let within = |at| (at - self.position) as usize;
            self.kept
                .extend_from_slice(&bytes[within(from)..within(to)]);
        }
        self.position = end;
        self.input.consume(amount);
    }
}

impl Read for StoredReader<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        read_buffered(self, out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_read_is_stored_and_a_block_is_kept() {
        let bytes: Vec<u8> = (0..2000u32).map(|n| n as u8).collect();
        let file = tempfile::tempfile().unwrap();
        let mut input = io::BufReader::with_capacity(300, &bytes[..]);
        let mut reader = StoredReader::new(&mut input, &file);
        reader.keep_block(1024);
        let mut read = vec![0; 1100];
        reader.read_exact(&mut read).unwrap();
        assert_eq!(reader.kept_block(), &bytes[1024..1100]);
        io::copy(&mut reader, &mut io::sink()).unwrap();
        assert_eq!(reader.kept_block(), &bytes[1024..1536]);
        assert_eq!(reader.finish().unwrap(), 2000);
        let mut stored = Vec::new();
        io::Seek::rewind(&mut &file).unwrap();
        (&file).read_to_end(&mut stored).unwrap();
        assert_eq!(stored, bytes);
    }
}
