//! Reads small files as a whole, and lists small directories. A file with more bytes than are
//! allowed, or a directory with more entries, is an error.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, ErrorKind, Read};
use std::path::Path;

use cas_core::{Error, Result, limit};

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

/// Returns whether the error means that a file or a directory does not exist.
pub(crate) fn is_absent(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory)
}
