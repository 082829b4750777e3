//! Makes committed tars immutable.

use std::fs::File;
use std::io;

use cas_core::snapshot::LAYER_TAR;
use cas_core::{Context, ErrorKind, Result};
use cas_host::{LockedDir, SnapshotDirs, TREE, calls, erofs, open_tree, set_immutable};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

/// Makes the tar in the directory of a snapshot immutable. Does nothing if there is no tar.
///
/// # Errors
/// As [`set_immutable`].
pub(crate) fn protect(dir: &LockedDir) -> Result<()> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let tar = match calls::openat(&open_tree(dir)?, LAYER_TAR, flags, Mode::empty()) {
        Err(Errno::NOENT) => return Ok(()),
        tar => File::from(tar.map_err(io::Error::from).during("open", LAYER_TAR)?),
    };
    set_immutable(tar, true).during("protect", LAYER_TAR)
}

/// Makes the tar in the directory of `id` mutable, so that it can be removed. Does nothing if the
/// directory has no tar, or if the tar cannot be immutable.
///
/// # Errors
/// As [`set_immutable`], except `Unsupported`.
pub(crate) fn unprotect(dirs: &SnapshotDirs, id: u64) -> Result<()> {
    let path = dirs.path(id).join(TREE).join(LAYER_TAR);
    // If something else has the name, the removal needs no preparation.
    let Ok(tar) = erofs::open_file(&path) else {
        return Ok(());
    };
    match set_immutable(tar, false) {
        Err(error) if error.kind() == ErrorKind::Unsupported => Ok(()),
        cleared => cleared.during("unprotect", path.display()),
    }
}
