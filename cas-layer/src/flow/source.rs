//! The reader at the end of the pipeline.

use std::io::{self, BufRead, Read};
use std::sync::mpsc::{Receiver, Sender};

use cas_core::{Error, Result};

use super::Message;
use crate::buffered::read_buffered;

/// Reads the decompressed bytes of one layer after the other. It stays at the end of a layer until
/// [`Source::finish`] is called.
pub(super) struct Source {
    input: Receiver<Message>,
    spent: Sender<Vec<u8>>,
    buffer: Vec<u8>,
    at: usize,
    ended: bool,
}

impl Source {
    pub(super) fn new(input: Receiver<Message>, spent: Sender<Vec<u8>>) -> Self {
        Source {
            input,
            spent,
            buffer: Vec::new(),
            at: 0,
            ended: false,
        }
    }

    /// Reads to the verified end of the layer, and moves on to the next layer.
    pub(super) fn finish(&mut self) -> Result<()> {
        loop {
            let amount = self.fill_buf()?.len();
            if amount == 0 {
                self.ended = false;
                return Ok(());
            }
            self.consume(amount);
        }
    }

    /// Receives the next buffer, and gives the last one back to be filled again.
    fn next_buffer(&mut self) -> Result<()> {
        let spent = std::mem::take(&mut self.buffer);
        self.at = 0;
        if spent.capacity() > 0 {
            // Fails if the first thread has ended. It then fills no more buffers.
            let _ = self.spent.send(spent);
        }
        match self.input.recv() {
            Ok(Message::Bytes(bytes)) => self.buffer = bytes,
            Ok(Message::End) => self.ended = true,
            Ok(Message::Failed(error)) => return Err(error),
            Err(_) => {
                return Err(Error::internal(
                    "a thread of the pipeline ended too early; please report it",
                ));
            }
        }
        Ok(())
    }
}

impl Read for Source {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        read_buffered(self, out)
    }
}

impl BufRead for Source {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        while self.at == self.buffer.len() && !self.ended {
            self.next_buffer()?;
        }
        Ok(&self.buffer[self.at..])
    }

    fn consume(&mut self, amount: usize) {
        self.at = (self.at + amount).min(self.buffer.len());
    }
}
