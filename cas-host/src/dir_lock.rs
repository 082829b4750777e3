//! Locks on directories. The kernel releases a lock when the process that has it ends.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::io::Errno;

use crate::calls::{self, undisturbed};

/// A locked directory. It is unlocked when the value is dropped. Nothing is created for the lock,
/// so a directory can also be locked on a full disk. On a network file system that cannot lock
/// directories, every caller of [`DirLock::try_new`] gets the lock.
#[derive(Debug)]
pub struct DirLock(File);

impl DirLock {
    /// Locks the directory `path`. Returns `None` if the directory is absent, if this process or
    /// another one has already locked it, or if it is removed or renamed during this call.
    ///
    /// # Errors
    /// Errors of the file system.
    pub fn try_new(path: &Path) -> io::Result<Option<Self>> {
        let flags = OFlags::DIRECTORY | OFlags::CLOEXEC;
        let opened = match calls::open(path, flags, Mode::empty()) {
            Err(Errno::NOENT) => return Ok(None),
            opened => File::from(opened?),
        };
        let lock = FlockOperation::NonBlockingLockExclusive;
        if calls::flock(&opened, lock) == Err(Errno::WOULDBLOCK) {
            return Ok(None);
        }
        let locked = undisturbed(|| opened.metadata())?;
        let found = undisturbed(|| path.metadata());
        let same =
            found.is_ok_and(|found| (found.dev(), found.ino()) == (locked.dev(), locked.ino()));
        Ok(same.then_some(DirLock(opened)))
    }

    /// Locks the directory `path`. Waits until the lock is free.
    ///
    /// # Errors
    /// Errors of the file system, for example if it cannot lock directories.
    pub(crate) fn wait(path: &Path) -> io::Result<Self> {
        let flags = OFlags::DIRECTORY | OFlags::CLOEXEC;
        let opened = File::from(calls::open(path, flags, Mode::empty())?);
        calls::flock(&opened, FlockOperation::LockExclusive)?;
        Ok(DirLock(opened))
    }

    /// Returns the open directory.
    pub fn file(&self) -> &File {
        &self.0
    }

    /// Sets the permissions of the directory.
    ///
    /// # Errors
    /// Errors of the file system.
    pub fn set_mode(&self, mode: u32) -> io::Result<()> {
        Ok(calls::fchmod(&self.0, Mode::from_raw_mode(mode))?)
    }
}

impl AsFd for DirLock {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Drop for DirLock {
    fn drop(&mut self) {
        // Closing is not enough: a child between fork and exec may have a copy of the file
        // descriptor.
        let _ = calls::flock(&self.0, FlockOperation::Unlock);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn a_directory_has_one_owner_and_a_removed_one_has_none() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("dir");
        assert!(DirLock::try_new(&path).unwrap().is_none());
        fs::create_dir(&path).unwrap();
        let held = DirLock::try_new(&path).unwrap().unwrap();
        assert!(DirLock::try_new(&path).unwrap().is_none());
        fs::remove_dir(&path).unwrap();
        fs::create_dir(&path).unwrap();
        let other = DirLock::try_new(&path).unwrap();
        assert!(other.is_some(), "it is another directory");
        drop((held, other));
        assert!(DirLock::try_new(&path).unwrap().is_some());
    }
}
