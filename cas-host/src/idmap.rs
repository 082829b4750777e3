//! ID-mapped mounts: mounts that show other owners than the owners on disk.

use std::os::fd::{BorrowedFd, OwnedFd};

use cas_core::error::{Context, Error, Result};
use rustix::mount::MountAttrFlags;

use crate::mount_attr::set_attributes;

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
        let idmap = MountAttrFlags::MOUNT_ATTR_IDMAP;
        let Err(error) = set_attributes(mount, idmap, Some(self.0)) else {
            return Ok(());
        };
        match error.raw_os_error() {
            Some(libc::ENOSYS | libc::EINVAL) => Err(Error::unsupported(
                "this kernel or file system does not support ID maps; mount without an ID map",
            )
            .operation("map owners")),
            _ => Err(error).during("map owners", "of a mount"),
        }
    }
}
