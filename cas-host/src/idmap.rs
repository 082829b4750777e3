//! ID-mapped mounts: mounts that show other owners than the owners on disk.

use std::io;
use std::mem::size_of_val;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use cas_core::error::{Context, Error, Result};
use rustix::mount::MountAttrFlags;

/// The ID map of a user namespace.
#[derive(Clone, Copy, Debug)]
pub struct IdMap<'a>(BorrowedFd<'a>);

impl<'a> IdMap<'a> {
    /// Returns the ID map of the user namespace `namespace`.
    pub fn of(namespace: BorrowedFd<'a>) -> Self {
        IdMap(namespace)
    }

    /// Applies the map to a mount that is not attached yet.
    ///
    /// # Errors
    /// `Unsupported` if the kernel (before 5.12) or the file system cannot map IDs; errors of the
    /// system.
    pub(crate) fn apply(self, mount: &OwnedFd) -> Result<()> {
        let namespace = u64::try_from(self.0.as_raw_fd()).unwrap_or_default();
        // `struct mount_attr`: flags to set, flags to clear, propagation, user namespace.
        let set = u64::from(MountAttrFlags::MOUNT_ATTR_IDMAP.bits());
        let attributes: [u64; 4] = [set, 0, 0, namespace];
        // SAFETY: path and attributes outlive the call, which gets their size and keeps neither.
        let done = unsafe {
            libc::syscall(
                libc::SYS_mount_setattr,
                mount.as_raw_fd(),
                c"".as_ptr(),
                libc::AT_EMPTY_PATH,
                attributes.as_ptr(),
                size_of_val(&attributes),
            )
        };
        if done == 0 {
            return Ok(());
        }
        let error = io::Error::last_os_error();
        match error.raw_os_error() {
            Some(libc::ENOSYS | libc::EINVAL) => Err(Error::unsupported(
                "this kernel or file system has no ID-mapped mounts; mount without an ID map",
            )
            .operation("map owners")),
            _ => Err(error).during("map owners", "of a mount"),
        }
    }
}
