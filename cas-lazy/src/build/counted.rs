//! A reader that counts the bytes read.

use std::io::{self, BufRead, Read};

use cas_layer::read_buffered;

/// Reads from `R`, and counts the bytes.
pub(crate) struct Counted<R> {
    input: R,
    position: u64,
}

impl<R> Counted<R> {
    pub(crate) fn new(input: R) -> Self {
        Counted { input, position: 0 }
    }

    /// Returns the number of bytes read.
    pub(crate) fn position(&self) -> u64 {
        self.position
    }

    pub(crate) fn into_inner(self) -> R {
        self.input
    }
}

impl<R: BufRead> BufRead for Counted<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.input.fill_buf()
    }

    fn consume(&mut self, amount: usize) {
        self.position += amount as u64;
        self.input.consume(amount);
    }
}

impl<R: BufRead> Read for Counted<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        read_buffered(self, out)
    }
}
