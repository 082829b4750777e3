//! Error messages and exit codes.

use std::error::Error as _;
use std::process::ExitCode;

use cas::{Error, ErrorKind};

use super::output::printable;

/// Prints the error. Returns the exit code of its kind.
pub(crate) fn report(error: &Error, verbose: bool) -> ExitCode {
    eprintln!("cas: {}", printable(&error.to_string()));
    let mut cause = error.source().filter(|_| verbose);
    while let Some(inner) = cause {
        eprintln!("  because: {}", printable(&inner.to_string()));
        cause = inner.source();
    }
    ExitCode::from(code(error))
}

fn code(error: &Error) -> u8 {
    match error.kind() {
        ErrorKind::InvalidArgument | ErrorKind::Unsupported => 2,
        ErrorKind::NotFound => 3,
        ErrorKind::Corrupt => 4,
        ErrorKind::Busy | ErrorKind::Conflict | ErrorKind::AlreadyExists => 5,
        ErrorKind::Full | ErrorKind::OutOfRange => 6,
        ErrorKind::Unavailable => 7,
        // Refused by a registry, not by this system.
        #[cfg(feature = "registry")]
        ErrorKind::Denied if error.answered_by() == Some(cas::distribution::REGISTRY) => 7,
        _ => 1,
    }
}
