//! Paths as people type them.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use cas_core::{Error, Result};

/// Returns the path to a directory without slashes at its end. If a file is at this path, the
/// kernel reports a clear error only for the path without slashes.
pub(super) fn directory(path: &Path) -> &Path {
    path.components().as_path()
}

/// Returns the path to a file that is written.
///
/// # Errors
/// `InvalidArgument` if the path ends in a slash.
pub(super) fn file(path: &Path) -> Result<&Path> {
    match path.as_os_str().as_bytes().ends_with(b"/") {
        true => Err(Error::invalid(
            "the path ends in a slash, as the path of a directory does; name a file",
        )),
        false => Ok(path),
    }
}
