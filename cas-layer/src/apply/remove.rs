//! Removes what is at a name, including whole trees, without following links.

use std::os::fd::{AsFd, BorrowedFd};

use cas_core::{Error, Result, limit};
use cas_host::calls;
use rustix::fs::{AtFlags, FileType, Mode};
use rustix::io::Errno;

use super::dirs::DIRECTORY;
use super::os;

/// What was removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Removed {
    /// There was nothing.
    Nothing,
    /// Something that cannot be part of a longer path.
    Leaf,
    /// A symbolic link: paths through it are no longer valid.
    Link,
    /// A directory: paths through it are no longer valid.
    Tree,
}

/// Removes `name` in `parent`. Returns what was removed.
pub(super) fn remove(parent: BorrowedFd<'_>, name: &[u8]) -> Result<Removed> {
    let stat = match calls::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) {
        Err(Errno::NOENT | Errno::NOTDIR | Errno::NAMETOOLONG) => return Ok(Removed::Nothing),
        stat => os(stat)?,
    };
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => remove_tree(parent, name, limit::PATH_DEPTH).map(|()| Removed::Tree),
        other => {
            os(calls::unlinkat(parent, name, AtFlags::empty()))?;
            Ok(match other {
                FileType::Symlink => Removed::Link,
                _ => Removed::Leaf,
            })
        }
    }
}

fn remove_tree(parent: BorrowedFd<'_>, name: &[u8], depth: usize) -> Result<()> {
    match calls::unlinkat(parent, name, AtFlags::REMOVEDIR) {
        Err(Errno::NOTEMPTY | Errno::EXIST) => {}
        removed => return os(removed),
    }
    if depth == 0 {
        return Err(too_deep());
    }
    let dir = os(calls::openat(parent, name, DIRECTORY, Mode::empty()))?;
    calls::each_entry(&dir, |child, _| {
        match calls::unlinkat(&dir, child, AtFlags::empty()) {
            Err(Errno::ISDIR) => remove_tree(dir.as_fd(), child.to_bytes(), depth - 1)?,
            removed => removed?,
        }
        Ok(())
    })?;
    os(calls::unlinkat(parent, name, AtFlags::REMOVEDIR))
}

/// Returns the error for a tree that is deeper than any path of a layer. Such a tree is hostile.
pub(super) fn too_deep() -> Error {
    Error::out_of_range(format!(
        "a directory to be removed is more than {} levels deep; build the image without it",
        limit::PATH_DEPTH
    ))
}
