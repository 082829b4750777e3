//! The root directory and the capabilities of a thread.

use std::io;
use std::os::fd::BorrowedFd;

use rustix::process::{chroot, fchdir};
use rustix::thread::{
    CapabilitySet, CapabilitySets, UnshareFlags, capabilities, set_capabilities, unshare_unsafe,
};

use super::unsupported;
use crate::node;

/// The capabilities that applying a layer as the superuser needs. `SYS_ADMIN` is for attributes
/// that begin with `trusted.` and `security.`; seccomp denies most other calls that need it. With
/// `SYS_RESOURCE`, the quotas of the users that own the files do not count.
pub(super) const FOR_FILES: CapabilitySet = CapabilitySet::CHOWN
    .union(CapabilitySet::DAC_OVERRIDE)
    .union(CapabilitySet::FOWNER)
    .union(CapabilitySet::FSETID)
    .union(CapabilitySet::MKNOD)
    .union(CapabilitySet::SETFCAP)
    .union(CapabilitySet::SYS_ADMIN)
    .union(CapabilitySet::SYS_RESOURCE);

/// Drops all capabilities of this thread but `kept`.
///
/// # Errors
/// Errors of the kernel.
pub(super) fn keep(kept: CapabilitySet) -> io::Result<()> {
    let had = capabilities(None)?;
    let sets = CapabilitySets {
        effective: had.effective & kept,
        permitted: had.permitted & kept,
        inheritable: CapabilitySet::empty(),
    };
    Ok(set_capabilities(None, sets)?)
}

/// Makes `directory` the root directory and the working directory of this thread, and of no other
/// thread.
///
/// # Errors
/// `Unsupported` if this thread does not have the capability `CAP_SYS_CHROOT`, or if files of the
/// directory cannot be changed [without `/proc`](node::needs_proc); errors of the kernel.
pub(super) fn change_root(directory: BorrowedFd<'_>) -> io::Result<()> {
    if !capabilities(None)?
        .effective
        .contains(CapabilitySet::SYS_CHROOT)
    {
        return Err(unsupported("the thread does not have CAP_SYS_CHROOT"));
    }
    if node::needs_proc() {
        return Err(unsupported(
            "the thread needs /proc, because it cannot call fchmodat2 or setxattrat",
        ));
    }
    // SAFETY: the call is only unsafe with the flag `FILES`, which gives the thread its own table
    // of open files.
    unsafe { unshare_unsafe(UnshareFlags::FS) }?;
    fchdir(directory)?;
    Ok(chroot(".")?)
}
