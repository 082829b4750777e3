//! Reads small files as a whole, and lists small directories. A file with more bytes than are
//! allowed, or a directory with more entries, is an error.

use std::ffi::OsString;
use std::fs::{self, File, Metadata};
use std::io::{self, ErrorKind, Read};
use std::path::Path;

use cas_core::{Error, Result, limit};

/// Maximum number of attempts to look up a path.
const TRIES: usize = 16;

/// Returns the bytes of a file, or `None` if it is absent. `what` names the file in messages.
///
/// # Errors
/// `OutOfRange` if it has more than `allowed` bytes; errors of the file system.
pub(crate) fn read(path: &Path, what: &str, allowed: u64) -> Result<Option<Vec<u8>>> {
    let file = match File::open(path) {
        Err(error) if is_absent(&error) => return Ok(None),
        opened => opened?,
    };
    let mut data = Vec::new();
    file.take(allowed + 1).read_to_end(&mut data)?;
    if data.len() as u64 > allowed {
        return Err(Error::out_of_range(format!(
            "{what} has more than {allowed} bytes; remove the unneeded parts"
        )));
    }
    Ok(Some(data))
}

/// Returns the names of the entries of a directory, in the order of their bytes, or `None` if the
/// directory is absent. `unneeded` says in the message which entries to remove.
///
/// # Errors
/// `OutOfRange` if it has more entries than [`limit::HOSTS_FILES`]; errors of the file system.
pub(crate) fn names(directory: &Path, unneeded: &str) -> Result<Option<Vec<OsString>>> {
    let entries = match fs::read_dir(directory) {
        Err(error) if is_absent(&error) => return Ok(None),
        opened => opened?,
    };
    let mut names = Vec::new();
    for entry in entries {
        if names.len() >= limit::HOSTS_FILES {
            let allowed = limit::HOSTS_FILES;
            return Err(Error::out_of_range(format!(
                "the directory has more than {allowed} entries; remove {unneeded}"
            )));
        }
        names.push(entry?.file_name());
    }
    names.sort();
    Ok(Some(names))
}

/// Returns the metadata of a file or a directory, or `None` if it cannot be looked up.
pub(crate) fn found(path: &Path) -> Option<Metadata> {
    undisturbed(|| path.metadata()).ok()
}

/// Calls `look_up`, and returns its result. Calls it again if it fails because of a signal, or
/// because what it finds on a network file system is stale, up to [`TRIES`] times in all. For all
/// system calls, `cas-host` has such a function, but this crate may only use `cas-core`.
fn undisturbed<T>(mut look_up: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    use ErrorKind::{Interrupted, StaleNetworkFileHandle};
    for _ in 1..TRIES {
        match look_up() {
            Err(error) if matches!(error.kind(), Interrupted | StaleNetworkFileHandle) => {}
            done => return done,
        }
    }
    look_up()
}

/// Returns whether the error means that a file or a directory does not exist.
pub(crate) fn is_absent(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory)
}

#[cfg(test)]
mod tests {
    use ErrorKind::{Interrupted, PermissionDenied, StaleNetworkFileHandle};

    use super::*;

    #[test]
    fn a_path_is_looked_up_again_if_others_disturb_it() {
        let attempts = |errors: &[ErrorKind]| {
            let mut made = 0;
            let outcome = undisturbed(|| {
                made += 1;
                errors
                    .get(made - 1)
                    .map_or(Ok(()), |kind| Err((*kind).into()))
            });
            (outcome.is_ok(), made)
        };
        assert_eq!(attempts(&[Interrupted, StaleNetworkFileHandle]), (true, 3));
        assert_eq!(attempts(&[StaleNetworkFileHandle; 99]), (false, TRIES));
        assert_eq!(attempts(&[PermissionDenied]), (false, 1));
    }
}
