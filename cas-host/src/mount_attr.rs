//! Attributes of a mount that is not attached yet.

use std::io;
use std::mem::size_of_val;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use rustix::mount::MountAttrFlags;

use crate::calls::undisturbed;

/// Sets attributes of a mount. For `MOUNT_ATTR_IDMAP`, `namespace` is the user namespace whose ID
/// map the mount gets.
///
/// # Errors
/// `ENOSYS` before Linux 5.12; errors of the system.
pub(crate) fn set_attributes(
    mount: &OwnedFd,
    flags: MountAttrFlags,
    namespace: Option<BorrowedFd<'_>>,
) -> io::Result<()> {
    let namespace = namespace.map_or(0, |namespace| namespace.as_raw_fd());
    let namespace = u64::try_from(namespace).unwrap_or_default();
    // `struct mount_attr`: flags to set, flags to clear, propagation, user namespace.
    let attributes: [u64; 4] = [u64::from(flags.bits()), 0, 0, namespace];
    undisturbed(|| {
        // SAFETY: path and attributes outlive the call. The kernel gets the size of the attributes,
        // and keeps neither pointer.
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
        match done {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    })
}
