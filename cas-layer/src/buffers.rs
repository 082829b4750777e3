//! Memory buffers that are reused, because a newly allocated buffer of 1 MiB costs 256 page faults.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;
use cas_core::sync::lock;

/// Size of a piece in bytes.
pub(crate) const PIECE: usize = 1 << 20;

/// A pool of pieces. The memory of a piece returns to the pool when the last reader drops the
/// piece.
#[derive(Clone, Default)]
pub(crate) struct Buffers(Arc<Mutex<Vec<Vec<u8>>>>);

struct Lent {
    memory: Vec<u8>,
    filled: usize,
    home: Buffers,
}

impl AsRef<[u8]> for Lent {
    fn as_ref(&self) -> &[u8] {
        &self.memory[..self.filled]
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        let memory = std::mem::take(&mut self.memory);
        self.home.free().push(memory);
    }
}

impl Buffers {
    /// Returns the next piece of `input`, or `limit` bytes if that is less than a piece. Returns
    /// fewer bytes only at the end.
    pub(crate) fn read(&self, input: &mut impl Read, limit: u64) -> io::Result<Bytes> {
        let memory = self.free().pop().unwrap_or_else(|| vec![0; PIECE]);
        let mut lent = Lent {
            memory,
            filled: 0,
            home: self.clone(),
        };
        let wanted = limit.min(PIECE as u64) as usize;
        while lent.filled < wanted {
            match input.read(&mut lent.memory[lent.filled..wanted]) {
                Ok(0) => break,
                Ok(read) => lent.filled += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(Bytes::from_owner(lent))
    }

    fn free(&self) -> MutexGuard<'_, Vec<Vec<u8>>> {
        lock(&self.0)
    }
}

/// Reads a file by position, because other readers share its offset.
pub(crate) struct At<F> {
    pub(crate) file: F,
    pub(crate) from: u64,
}

impl<F: AsRef<File>> Read for At<F> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let read = self.file.as_ref().read_at(out, self.from)?;
        self.from += read as u64;
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_come_back_and_hold_what_was_read() {
        let buffers = Buffers::default();
        let first = buffers.read(&mut &b"abcdef"[..], 4).unwrap();
        assert_eq!(&first[..], b"abcd");
        let kept = first.slice(1..);
        drop(first);
        assert!(buffers.free().is_empty());
        drop(kept);
        assert_eq!(buffers.free().len(), 1);
        assert_eq!(&buffers.read(&mut &b"xy"[..], 9).unwrap()[..], b"xy");
        assert_eq!(buffers.free().len(), 1);
    }
}
