//! Error messages and exit codes.

use std::borrow::Cow;
use std::error::Error as _;
use std::process::ExitCode;

use cas::{Error, ErrorKind, Result};

use super::message::{print, tell};
use super::output::{printable, printable_lines};

/// Prints the error, and if `verbose` is set, its causes. Returns the exit code for the error.
pub(crate) fn report(error: &Error, verbose: bool) -> ExitCode {
    tell(format_args!("cas: {}", printable(&error.to_string())));
    let mut cause = error.source().filter(|_| verbose);
    while let Some(inner) = cause {
        tell(format_args!("  because: {}", printable(&inner.to_string())));
        cause = inner.source();
    }
    ExitCode::from(code(error))
}

/// Reports the records that a list lacks because they are damaged. Prints all of these errors
/// except the last one, with which the command ends.
///
/// # Errors
/// The last one of `problems`, if there are any.
pub(crate) fn damaged(problems: Vec<Error>) -> Result<()> {
    let advised = |problem: Error| problem.advice("run `cas fsck --repair`");
    let mut problems = problems.into_iter().map(advised);
    let last = problems.next_back();
    for problem in problems {
        tell(format_args!("cas: {}", printable(&problem.to_string())));
    }
    last.map_or(Ok(()), Err)
}

/// Prints the error in the arguments, or the requested help, and ends the process. The message
/// repeats arguments, so characters in them that a terminal may interpret are escaped.
pub(crate) fn misused(error: &clap::Error) -> ! {
    let arguments = std::env::args_os().map(|one| one.to_string_lossy().into_owned());
    let (mut text, mut is_plain) = (error.render().to_string(), true);
    for argument in arguments {
        if let Cow::Owned(shown) = printable(&argument) {
            text = text.replace(&argument, &shown);
            is_plain = false;
        }
    }
    if is_plain {
        error.exit();
    }
    print(printable_lines(&text));
    std::process::exit(error.exit_code())
}

fn code(error: &Error) -> u8 {
    match error.kind() {
        ErrorKind::InvalidArgument | ErrorKind::Unsupported => 2,
        ErrorKind::NotFound => 3,
        ErrorKind::Corrupt => 4,
        ErrorKind::Busy | ErrorKind::Conflict | ErrorKind::AlreadyExists => 5,
        ErrorKind::Full | ErrorKind::OutOfRange => 6,
        ErrorKind::Unavailable => 7,
        // The refusal came from a registry, not from this machine.
        #[cfg(feature = "registry")]
        ErrorKind::Denied if error.answered_by() == Some(cas::distribution::REGISTRY) => 7,
        // The same for an object store.
        #[cfg(feature = "s3")]
        ErrorKind::Denied if error.answered_by() == Some(backend_remote::SERVICE) => 7,
        _ => 1,
    }
}

#[cfg(all(test, feature = "s3"))]
mod tests {
    use super::*;

    #[test]
    fn an_object_store_that_denies_access_differs_from_this_machine() {
        let denied = || Error::new(ErrorKind::Denied, "access was denied");
        assert_eq!(code(&denied().backend(backend_remote::SERVICE)), 7);
        assert_eq!(code(&denied()), 1);
    }
}
