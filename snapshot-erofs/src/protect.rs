//! Makes the files of committed layers immutable.

use std::fs::File;
use std::io;

use cas_core::{Context, ErrorKind, Result};
use cas_host::{LockedDir, SnapshotDirs, TREE, calls, erofs, open_tree, set_immutable};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use crate::ready::{LAYER_FILES, REFERENCES};

/// Makes the tar or the EROFS image of the layer in the directory of a snapshot immutable, or the
/// reference to a ready layer. Does nothing if there is none, for example because the layer is read
/// on demand.
///
/// # Errors
/// As [`set_immutable`]; errors of opening the file.
pub(crate) fn protect(dir: &LockedDir) -> Result<()> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let tree = open_tree(dir)?;
    for name in LAYER_FILES.into_iter().chain(REFERENCES) {
        let layer = match calls::openat(&tree, name, flags, Mode::empty()) {
            Err(Errno::NOENT) => continue,
            layer => File::from(layer.map_err(io::Error::from).during("open", name)?),
        };
        set_immutable(layer, true).during("protect", name)?;
    }
    Ok(())
}

/// Makes the tar, the EROFS image or the reference of the layer in the directory of `id` mutable,
/// so that it can be removed. Does nothing if there is none, or if the file system does not have
/// immutable files.
///
/// # Errors
/// As [`set_immutable`], except `Unsupported`.
pub(crate) fn unprotect(dirs: &SnapshotDirs, id: u64) -> Result<()> {
    for name in LAYER_FILES.into_iter().chain(REFERENCES) {
        let path = dirs.path(id).join(TREE).join(name);
        // If something else has the name, the removal needs no preparation.
        let Ok(layer) = erofs::open_file(&path) else {
            continue;
        };
        match set_immutable(layer, false) {
            Err(error) if error.kind() == ErrorKind::Unsupported => {}
            cleared => cleared.during("unprotect", path.display())?,
        }
    }
    Ok(())
}
