//! The right to mount, and errors of calls that need it.

use std::fmt;
use std::io;

use cas_core::error::{Error, ErrorKind, Result};
use rustix::fs::CWD;
use rustix::io::Errno;
use rustix::mount::OpenTreeFlags;

use crate::calls;

/// The kernel's refusal of a mount to a process without the right to mount.
#[derive(Debug)]
struct NoRight;

impl fmt::Display for NoRight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        io::Error::from(Errno::PERM).fmt(f)
    }
}

impl std::error::Error for NoRight {}

/// Returns whether the cause of an error is that this process has no right to mount.
pub fn has_no_right(error: &Error) -> bool {
    std::error::Error::source(error).is_some_and(|cause| cause.is::<NoRight>())
}

/// Checks that this process has the right to mount, so that a caller can fail before other work. A
/// mount may still fail: in a user namespace, for example, the kernel refuses some file systems.
///
/// # Errors
/// `Denied` without the right; [`has_no_right`] then returns true.
pub fn check_right() -> Result<()> {
    match calls::open_tree(
        CWD,
        "/",
        OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC,
    ) {
        Err(Errno::PERM) => Err(explain(Errno::PERM).operation("mount")),
        // Any other failure here does not mean that other mounts would fail.
        _ => Ok(()),
    }
}

/// Returns the error of a call that needs the right to mount.
pub(crate) fn explain(errno: Errno) -> Error {
    if errno != Errno::PERM {
        return io::Error::from(errno).into();
    }
    let why = "mounting and unmounting need CAP_SYS_ADMIN";
    Error::new(ErrorKind::Denied, why).source(NoRight)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_refusal_to_mount_is_a_missing_right() {
        for (errno, expected) in [
            (Errno::PERM, true),
            (Errno::ACCESS, false),
            (Errno::ROFS, false),
            (Errno::BUSY, false),
            (Errno::NOENT, false),
        ] {
            let error = explain(errno).operation("mount").subject("/mnt");
            assert_eq!(has_no_right(&error), expected, "{error}");
        }
        let other = Error::from(io::Error::from(Errno::PERM));
        assert!(!has_no_right(&other));
    }
}
