//! Paths as people type them.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use cas_core::{Error, Result};
use cas_host::check_outside;

use super::Cas;

impl Cas {
    /// Checks the path of what a verb writes: it is neither in the root nor in the store.
    ///
    /// # Errors
    /// `InvalidArgument` if it is in one of them.
    pub(super) fn check_output(&self, path: &Path) -> Result<()> {
        check_outside(path, self.root.path(), "root")?;
        let parts = self.registry.parts(&self.location)?;
        let places = parts.iter().map(|part| Path::new(part.place()));
        // The place of a store in a bucket is not a path.
        let mut places = places.filter(|place| place.is_absolute());
        places.try_for_each(|place| check_outside(path, place, "store"))
    }
}

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
