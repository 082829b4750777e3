//! Locks on files. The kernel releases a lock when the process that has it ends.
//!
//! An `flock` belongs to the open file description, so a [`Lock`] also excludes another `Lock` in
//! the same process.

use std::fs::File;
use std::io;

use rustix::fs::{FlockOperation, OFlags};
use rustix::io::Errno;

use crate::{Dir, calls};

/// A locked file. It is unlocked when the value is dropped.
#[derive(Debug)]
pub struct Lock {
    file: File,
}

impl Lock {
    /// Locks the file `name`, which is created if it is absent. Waits until the lock is free.
    ///
    /// # Errors
    /// Errors of the file system.
    pub fn exclusive(dir: &Dir, name: &str) -> io::Result<Self> {
        loop {
            let file = open(dir, name)?;
            calls::flock(&file, FlockOperation::LockExclusive)?;
            if dir.is_file(name, &file)? {
                return Ok(Lock { file });
            }
        }
    }

    /// Locks the file `name`, which is created if it is absent. Returns `None` if the file is
    /// locked already, by this process or another one.
    ///
    /// # Errors
    /// Errors of the file system.
    pub fn try_exclusive(dir: &Dir, name: &str) -> io::Result<Option<Self>> {
        loop {
            let file = open(dir, name)?;
            match calls::flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Err(Errno::WOULDBLOCK) => return Ok(None),
                locked => locked?,
            }
            // The last owner may have removed the file after it was opened here.
            if dir.is_file(name, &file)? {
                return Ok(Some(Lock { file }));
            }
        }
    }

    /// Locks the file `name`. Returns `None` if the file does not exist, was just removed, or is
    /// locked already, by this process or another one.
    ///
    /// # Errors
    /// Errors of the file system.
    pub fn try_existing(dir: &Dir, name: &str) -> io::Result<Option<Self>> {
        let file = match dir.open_file(name, OFlags::RDWR, 0) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            opened => opened?,
        };
        match calls::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Err(Errno::WOULDBLOCK) => return Ok(None),
            locked => locked?,
        }
        Ok(dir.is_file(name, &file)?.then_some(Lock { file }))
    }

    /// Returns the locked file, which may have content.
    pub fn file(&self) -> &File {
        &self.file
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // Closing is not enough: a child between fork and exec may have a copy of the file
        // descriptor.
        let _ = calls::flock(&self.file, FlockOperation::Unlock);
    }
}

fn open(dir: &Dir, name: &str) -> io::Result<File> {
    dir.open_file(name, OFlags::RDWR | OFlags::CREATE, 0o600)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_has_one_owner_and_ends_when_its_file_is_removed() {
        let temp = tempfile::tempdir().unwrap();
        let dir = Dir::open(temp.path()).unwrap();
        let held = Lock::try_exclusive(&dir, "x").unwrap().unwrap();
        assert!(Lock::try_exclusive(&dir, "x").unwrap().is_none());
        dir.remove("x").unwrap();
        // The name is free: the first lock is on a file that has no name any more.
        let fresh = Lock::try_exclusive(&dir, "x").unwrap().unwrap();
        drop((held, fresh));
        assert!(Lock::try_exclusive(&dir, "x").unwrap().is_some());
    }

    #[test]
    fn only_a_file_that_exists_and_is_free_is_locked_without_creating_it() {
        let temp = tempfile::tempdir().unwrap();
        let dir = Dir::open(temp.path()).unwrap();
        assert!(Lock::try_existing(&dir, "x").unwrap().is_none());
        assert!(!temp.path().join("x").exists());
        let held = Lock::exclusive(&dir, "x").unwrap();
        assert!(Lock::try_existing(&dir, "x").unwrap().is_none());
        drop(held);
        assert!(Lock::try_existing(&dir, "x").unwrap().is_some());
    }
}
