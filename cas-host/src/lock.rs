//! Locks of open files: the kernel releases them when their owner dies.
//!
//! `flock` belongs to the open file description, so two openings exclude each other within one
//! process as well as between processes.

use std::fs::{File, TryLockError};
use std::io;

use rustix::fs::OFlags;

use crate::Dir;

/// A held lock; dropping it releases it.
#[derive(Debug)]
pub struct Lock {
    file: File,
}

impl Lock {
    /// Waits for the lock of the file `name`, which is made where it is absent.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn exclusive(dir: &Dir, name: &str) -> io::Result<Self> {
        loop {
            let file = open(dir, name)?;
            file.lock()?;
            if dir.holds(name, &file)? {
                return Ok(Lock { file });
            }
        }
    }

    /// Takes the lock of the file `name`, made where it is absent, or nothing while it is held.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn try_exclusive(dir: &Dir, name: &str) -> io::Result<Option<Self>> {
        loop {
            let file = open(dir, name)?;
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => return Ok(None),
                Err(TryLockError::Error(error)) => return Err(error),
            }
            // The last owner may have removed the file between the opening and the lock.
            if dir.holds(name, &file)? {
                return Ok(Some(Lock { file }));
            }
        }
    }

    /// The locked file, to keep a remark in.
    pub fn file(&self) -> &File {
        &self.file
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // Closing is not enough while a child between fork and exec holds a copy.
        let _ = self.file.unlock();
    }
}

fn open(dir: &Dir, name: &str) -> io::Result<File> {
    dir.open_file(name, OFlags::RDWR | OFlags::CREATE, 0o600)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_owner_and_a_removed_file_is_no_lock() {
        let temp = tempfile::tempdir().unwrap();
        let dir = Dir::open(temp.path()).unwrap();
        let held = Lock::try_exclusive(&dir, "x").unwrap().unwrap();
        assert!(Lock::try_exclusive(&dir, "x").unwrap().is_none());
        dir.remove("x").unwrap();
        // The name is free again: the old lock is of a file that nobody can find.
        let fresh = Lock::try_exclusive(&dir, "x").unwrap().unwrap();
        drop((held, fresh));
        assert!(Lock::try_exclusive(&dir, "x").unwrap().is_some());
    }
}
