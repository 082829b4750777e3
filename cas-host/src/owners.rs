//! Mounts that show other owners than those on disk.

use std::io;
use std::mem::size_of_val;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use cas_core::error::{Context, Error, Result};
use rustix::mount::MountAttrFlags;

/// Makes a mount that is attached nowhere show owners as `namespace`, a user namespace, maps them.
///
/// # Errors
/// `Unsupported` where the kernel (before 5.12) or the file system cannot; those of the system.
pub(crate) fn map(mount: &OwnedFd, namespace: BorrowedFd<'_>) -> Result<()> {
    let namespace = u64::try_from(namespace.as_raw_fd()).unwrap_or_default();
    // `struct mount_attr`: what is set, what is cleared, the propagation, the namespace.
    let set = u64::from(MountAttrFlags::MOUNT_ATTR_IDMAP.bits());
    let attributes: [u64; 4] = [set, 0, 0, namespace];
    // SAFETY: path and attributes outlive the call, which is told their size and keeps neither.
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
            "this kernel or file system cannot show other owners; mount without a map of ids",
        )
        .operation("map owners")),
        _ => Err(error).during("map owners", "of a mount"),
    }
}
