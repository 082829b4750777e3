//! Reads small files as a whole. A file with more bytes than are allowed is an error.

use std::fs::File;
use std::io::{self, ErrorKind, Read};
use std::path::Path;

use cas_core::{Error, Result};

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

/// Returns whether the error means that a file or a directory does not exist.
pub(crate) fn is_absent(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory)
}
