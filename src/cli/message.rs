//! Messages on standard error. A command continues if a message cannot be printed, for example
//! because the reader of a pipe has ended. `eprintln!` would panic.

use std::fmt::Display;
use std::io::{self, Write};

/// Prints a line.
pub(crate) fn tell(line: impl Display) {
    print(format_args!("{line}\n"));
}

/// Prints a text, and does not add a line break.
pub(crate) fn print(text: impl Display) {
    let _ = write!(io::stderr(), "{text}");
}
