//! Checks and creates the directory of a new store, or of a new root of `cas`.

use std::io::{self, ErrorKind};
use std::path::Path;

use cas_core::Error;

use crate::calls::undisturbed;
use crate::{Dir, calls};

/// Explains why an operation that needs the directory `path` failed with `error`. Returns `error`
/// unchanged, except in these cases:
///
/// - The kind of `error` is `AlreadyExists`, `NotADirectory` or `NotFound`, and `path` or one of
///   its parents exists and is not a directory. Then returns `InvalidArgument` with this reason.
/// - The kind of `error` is `NotFound`, and the first case does not apply. Then returns `NotFound`
///   with the advice to name a directory that exists.
pub fn no_directory(error: io::Error, path: &Path) -> Error {
    let kind = error.kind();
    if !matches!(
        kind,
        ErrorKind::AlreadyExists | ErrorKind::NotADirectory | ErrorKind::NotFound
    ) {
        return error.into();
    }
    let mut there = path.ancestors();
    let there = there.find(|part| part.symlink_metadata().is_ok());
    match there.filter(|there| !there.is_dir()) {
        Some(there) if there == path => {
            Error::invalid("the path exists and is not a directory; name another path")
        }
        Some(there) => {
            let there = there.display();
            Error::invalid(format!("{there} is not a directory; name another path"))
        }
        None if kind == ErrorKind::NotFound => {
            Error::not_found("no such directory; name a directory that exists")
        }
        None => return error.into(),
    }
    .source(error)
}

/// Returns whether `error` means that this process cannot write: it has no permission for what it
/// tried, or the file system is read-only.
pub fn cannot_write(error: &io::Error) -> bool {
    use ErrorKind::{PermissionDenied, ReadOnlyFilesystem};
    matches!(error.kind(), PermissionDenied | ReadOnlyFilesystem)
}

/// Creates the directory `path` and its missing parents with the mode 0700. The name of `path` is
/// then durable, but the names of new parents may not be. If the directory exists already, does
/// nothing.
///
/// # Errors
/// `InvalidArgument`, as an [`Error`] inside the `io::Error`, if `path` or one of its parents
/// exists and is not a directory; errors of the file system.
pub fn make_private_dir(path: &Path) -> io::Result<()> {
    if calls::is_dir(path) {
        return Ok(());
    }
    calls::make_dirs(path).map_err(|error| no_directory(error, path))?;
    // Syncs only the name of the last directory.
    match undisturbed(|| path.canonicalize())?.parent() {
        Some(parent) => Dir::open(parent)?.sync(),
        None => Ok(()),
    }
}

/// Returns a name in `dir` for which `is_ours` returns false, or `None` if there is none. A caller
/// must not create a store or a root of `cas` in a directory that contains such a name.
///
/// # Errors
/// Errors of the file system.
pub fn find_foreign(dir: &Dir, is_ours: impl Fn(&str) -> bool) -> io::Result<Option<String>> {
    let names = calls::list(dir)?.into_iter();
    let mut names = names.map(|(name, _)| name.to_string_lossy().into_owned());
    Ok(names.find(|name| !is_ours(name)))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_new_directory_is_private_and_foreign_files_are_found() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("a/b");
        make_private_dir(&path).unwrap();
        make_private_dir(&path).unwrap();
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o700);
        let dir = Dir::open(&path).unwrap();
        let find = || find_foreign(&dir, |name| name == "ours").unwrap();
        fs::write(path.join("ours"), "").unwrap();
        assert_eq!(find(), None);
        fs::write(path.join("other"), "").unwrap();
        assert_eq!(find().as_deref(), Some("other"));
    }
}
