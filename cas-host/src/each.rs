//! Changing every entry of a tree.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use cas_core::Result;
use rustix::fs::Stat;
use rustix::io::Errno;

use crate::tree::{At, Visit, walk};

/// Calls `change` for each entry below `root`, with the directory that contains the entry, and the
/// name and the status of the entry. A directory comes after its entries.
///
/// # Errors
/// `Busy` at a mount point; `Unavailable` if a directory is moved meanwhile; errors of `change` and
/// of the file system, with the path.
pub fn for_each(
    root: impl AsFd,
    change: impl FnMut(BorrowedFd<'_>, &CStr, &Stat) -> Result<(), Errno>,
) -> Result<()> {
    walk(root, &mut Each(change))
}

struct Each<F>(F);

impl<F: FnMut(BorrowedFd<'_>, &CStr, &Stat) -> Result<(), Errno>> Visit for Each<F> {
    fn entry(&mut self, at: At<'_>) -> io::Result<()> {
        Ok((self.0)(at.dir, at.name, at.stat)?)
    }

    fn enter(&mut self, _: At<'_>) -> io::Result<()> {
        Ok(())
    }

    fn leave(&mut self, at: At<'_>, _: BorrowedFd<'_>) -> io::Result<()> {
        Ok((self.0)(at.dir, at.name, at.stat)?)
    }
}
