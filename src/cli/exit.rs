//! Exit codes that mean something, and errors for people.

use std::error::Error as _;
use std::process::ExitCode;

use cas::{Error, Kind};

/// Prints the error and gives the exit code of its kind.
pub(crate) fn report(error: &Error, verbose: bool) -> ExitCode {
    eprintln!("cas: {error}");
    let mut cause = error.source().filter(|_| verbose);
    while let Some(inner) = cause {
        eprintln!("  because: {inner}");
        cause = inner.source();
    }
    ExitCode::from(code(error))
}

fn code(error: &Error) -> u8 {
    match error.kind() {
        Kind::InvalidArgument | Kind::Unsupported => 2,
        Kind::NotFound => 3,
        Kind::Corrupt => 4,
        Kind::Busy | Kind::Conflict | Kind::AlreadyExists => 5,
        Kind::Full | Kind::OutOfRange => 6,
        Kind::Unavailable => 7,
        // Refused by a remote, and not by this system.
        #[cfg(feature = "registry")]
        Kind::Denied if error.answered_by() == Some(cas::distribution::REGISTRY) => 7,
        _ => 1,
    }
}
