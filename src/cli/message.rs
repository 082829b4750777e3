//! Messages on standard error. A command continues if a message cannot be printed, for example
//! because the reader of a pipe has ended. `eprintln!` would panic.

use std::fmt::Display;
use std::io::{self, Write};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// Prints a line.
pub(crate) fn tell(line: impl Display) {
    print(format_args!("{line}\n"));
}

/// Prints a text, and does not add a line break.
pub(crate) fn print(text: impl Display) {
    let _ = write!(io::stderr(), "{text}");
}

/// Prints a text, unless that would have to wait, for example until the reader of a pipe reads.
pub(crate) fn tell_if_ready(text: &str) {
    let stderr = io::stderr();
    let mut polled = [PollFd::new(&stderr, PollFlags::OUT)];
    if poll(&mut polled, Some(&Timespec::default())).is_ok_and(|ready| ready > 0) {
        // A thread that waits may hold the lock of `stderr`, so this write does not take it.
        let _ = rustix::io::write(&stderr, text.as_bytes());
    }
}
