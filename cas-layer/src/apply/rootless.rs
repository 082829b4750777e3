//! Applying layers as a user who can neither give files to others nor make devices.
//!
//! - All files belong to that user. The xattr `user.rootlesscontainers` keeps the owner that the
//!   layer names.
//! - Directories stay open to that user until [`Tree::close_directories`], because later members
//!   and layers may change what is in them.
//! - A file gets its xattrs before its mode, because the mode may forbid that user to write to the
//!   file.

use std::collections::HashMap;
use std::sync::Mutex;

use cas_core::sync::lock;
use cas_core::{Context, Error, Result, limit};
use cas_host::{calls, for_each};
use rustix::fs::{AtFlags, FileType, Mode};

use super::owners::{self, OWNER};
use super::seen::Inode;
use super::{Tree, os};
use crate::tar::Entry;

/// The permissions that a directory keeps while layers are applied.
const OPEN: u32 = 0o700;

/// The state in memory of a tree that a user without privileges makes.
#[derive(Debug)]
pub(super) struct Rootless {
    uid: u32,
    gid: u32,
    /// The final modes of the directories that are open until [`Tree::close_directories`].
    closed: Mutex<HashMap<Inode, u32>>,
}

impl Rootless {
    pub(super) fn new() -> Self {
        Rootless {
            uid: rustix::process::geteuid().as_raw(),
            gid: rustix::process::getegid().as_raw(),
            closed: Mutex::default(),
        }
    }

    /// Changes the owner of a member to this user, and keeps the owner that the layer names in the
    /// attribute [`OWNER`]. If the layer itself sets this attribute, its value is dropped. Returns
    /// whether that is the case.
    pub(super) fn adopt(&self, entry: &mut Entry) -> bool {
        let before = entry.xattrs.len();
        entry.xattrs.retain(|(name, _)| name != OWNER);
        let had = entry.xattrs.len() < before;
        if let Some(value) = owners::encode(entry.uid, entry.gid) {
            let at = entry.xattrs.partition_point(|(name, _)| &name[..] < OWNER);
            entry.xattrs.insert(at, (OWNER.to_vec(), value));
        }
        (entry.uid, entry.gid) = (self.uid, self.gid);
        had
    }

    /// Returns the mode that a directory has until it is closed.
    ///
    /// # Errors
    /// `OutOfRange` for more than [`limit::CLOSED_DIRECTORIES`] directories.
    pub(super) fn open_mode(&self, directory: Inode, mode: u32) -> Result<u32> {
        let mut closed = lock(&self.closed);
        if mode & OPEN == OPEN {
            closed.remove(&directory);
            return Ok(mode);
        }
        closed.insert(directory, mode);
        if closed.len() > limit::CLOSED_DIRECTORIES {
            return Err(Error::out_of_range(format!(
                "more than {} directories lack the read, write or search permission of their \
                 owner; unpack as the superuser",
                limit::CLOSED_DIRECTORIES
            )));
        }
        Ok(mode | OPEN)
    }
}

impl Tree {
    /// Returns the tree for a user without privileges. All its files belong to the user of this
    /// process, the xattr `user.rootlesscontainers` keeps the owner that a layer names, and devices
    /// are left out. Call [`Tree::close_directories`] after the last layer.
    #[must_use]
    pub fn into_rootless(self) -> Self {
        Tree {
            rootless: Some(Rootless::new().into()),
            ..self
        }
    }

    /// Sets the final modes of the directories that stayed open to this user while layers were
    /// applied. Does nothing for a tree that is not [rootless](Self::into_rootless).
    ///
    /// # Errors
    /// `Busy` at a mount point; `Unavailable` if a directory is moved meanwhile; errors of the file
    /// system.
    pub fn close_directories(&self) -> Result<()> {
        let Some(rootless) = &self.rootless else {
            return Ok(());
        };
        let closed = std::mem::take(&mut *lock(&rootless.closed));
        if closed.is_empty() {
            return Ok(());
        }
        let mode = |inode: Inode| closed.get(&inode).copied().map(Mode::from_raw_mode);
        let below = for_each(&self.root, |dir, name, stat| {
            match mode((stat.st_dev, stat.st_ino)) {
                Some(mode) if FileType::from_raw_mode(stat.st_mode) == FileType::Directory => {
                    calls::chmodat(dir, name, mode, AtFlags::empty())
                }
                _ => Ok(()),
            }
        });
        below.during("set modes", "of directories")?;
        let stat = os(calls::fstat(&self.root))?;
        match mode((stat.st_dev, stat.st_ino)) {
            Some(mode) => os(calls::fchmod(&self.root, mode)),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use cas_core::ErrorKind;

    use super::*;

    #[test]
    fn only_so_many_directories_are_closed_to_their_owner() {
        let (rootless, most) = (Rootless::new(), limit::CLOSED_DIRECTORIES as u64);
        for number in 0..most {
            rootless.open_mode((1, number), 0o500).unwrap();
        }
        rootless.open_mode((1, most), OPEN).unwrap();
        let error = rootless.open_mode((1, most), 0o500).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::OutOfRange);
        assert!(error.to_string().contains(&most.to_string()), "{error}");
    }
}
