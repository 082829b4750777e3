//! Unmounting.

use std::path::Path;

use cas_core::error::{Context, Error, Result};
use rustix::io::Errno;
use rustix::mount::UnmountFlags;

use crate::calls;
use crate::mount_right::explain;

/// How a mount that is in use is unmounted. By default, it stays mounted, and [`unmount`] fails.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UnmountMode {
    /// Whether pending requests to a file system that does not answer are aborted (`MNT_FORCE`).
    pub force: bool,
    /// Whether the mount is only detached (`MNT_DETACH`). A detached mount disappears from its path
    /// at once, and ends when nothing uses it any more.
    pub lazy: bool,
}

/// Unmounts `target`.
///
/// # Errors
/// `Busy` if the mount is in use and `mode` is not `lazy`; `FailedPrecondition` if nothing is
/// mounted at `target` in this mount namespace, if `target` is a symbolic link, or if the mount is
/// locked because it comes from a namespace with more rights; `Denied` without the right to mount;
/// errors of the system.
pub fn unmount(target: &Path, mode: UnmountMode) -> Result<()> {
    let mut flags = UnmountFlags::NOFOLLOW;
    flags.set(UnmountFlags::FORCE, mode.force);
    flags.set(UnmountFlags::DETACH, mode.lazy);
    match calls::unmount(target, flags) {
        Err(Errno::BUSY) => Err(Error::busy(
            "a file or directory in the mount is in use; end the process that uses it, or leave \
             the directory",
        )),
        Err(Errno::INVAL) => Err(Error::precondition(
            "nothing is mounted at this path in this mount namespace, or the mount is locked; \
             check the path",
        )),
        done => done.map_err(explain),
    }
    .during("unmount", target.display())
}
