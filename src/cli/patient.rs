//! Standard input and output that another process may have made non-blocking. Several processes can
//! share a pipe or a terminal. If one of them makes it non-blocking, a read or a write of this
//! process may return `EAGAIN`.

use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::AsFd;

use rustix::event::{PollFd, PollFlags, poll};

/// A stream whose reads and writes wait until the stream is ready.
pub(crate) struct Patient<T>(pub(crate) T);

impl<T: AsFd> Patient<T> {
    fn wait_for(&self, ready: PollFlags) -> io::Result<()> {
        match poll(&mut [PollFd::new(&self.0, ready)], None) {
            Err(rustix::io::Errno::INTR) => Ok(()),
            polled => Ok(polled.map(|_| ())?),
        }
    }
}

impl<T: AsFd + Read> Read for Patient<T> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.0.read(out) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    self.wait_for(PollFlags::IN)?;
                }
                read => return read,
            }
        }
    }
}

impl<T: AsFd + Write> Write for Patient<T> {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        loop {
            match self.0.write(data) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    self.wait_for(PollFlags::OUT)?;
                }
                written => return written,
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        loop {
            match self.0.flush() {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    self.wait_for(PollFlags::OUT)?;
                }
                flushed => return flushed,
            }
        }
    }
}
