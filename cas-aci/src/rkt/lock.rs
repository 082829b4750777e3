//! The locks of rkt: each is an `flock` on a directory, or on a file that is used only as a lock.
//!
//! rkt takes these locks:
//!
//! - on the directory of the store: a shared lock while rkt has the store open, and an exclusive
//!   lock while rkt changes the format of the database;
//! - on the directory `db` in the store: an exclusive lock for each transaction;
//! - on the file in `imagelocks` whose name is the key of an archive: a shared lock while rkt reads
//!   the archive, and an exclusive lock while rkt writes or removes the archive.

use std::fs::{self, File, TryLockError};
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use cas_core::{Context, Error, Result};

/// Maximum time to wait for another process to release an exclusive lock.
const PATIENCE: Duration = Duration::from_secs(1);
/// Time between two attempts to take a lock.
const PAUSE: Duration = Duration::from_millis(5);

/// A shared lock, which excludes exclusive locks. Dropping it releases the lock.
#[derive(Debug)]
pub(super) struct ReadLock(File);

impl ReadLock {
    /// Locks the file or directory at `path`. Returns `None` if `path` does not exist. rkt does not
    /// have the lock then, because it creates the file or directory before it locks it. If `flock`
    /// fails with an error, for example because the file system has no locks, returns a value that
    /// excludes no other process.
    ///
    /// # Errors
    /// `Busy` if another process has an exclusive lock for longer than a second; errors of the file
    /// system.
    pub(super) fn new(path: &Path) -> Result<Option<Self>> {
        let begun = Instant::now();
        loop {
            let file = match File::open(path) {
                Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
                file => file.during("open", path.display())?,
            };
            match file.try_lock_shared() {
                Err(TryLockError::WouldBlock) if begun.elapsed() < PATIENCE => {
                    thread::sleep(PAUSE);
                }
                Err(TryLockError::WouldBlock) => {
                    return Err(Error::busy(
                        "another process has locked this file or directory; end rkt, and try again",
                    )
                    .operation("lock")
                    .subject(path.display()));
                }
                // The lock of a file that was removed before it was locked excludes no process.
                Ok(()) if !is_at(&file, path) => {}
                Ok(()) | Err(TryLockError::Error(_)) => return Ok(Some(ReadLock(file))),
            }
        }
    }
}

impl Drop for ReadLock {
    fn drop(&mut self) {
        // Closing is not enough: a child between fork and exec may have a copy of the file
        // descriptor.
        let _ = self.0.unlock();
    }
}

/// Returns whether `path` leads to this file.
fn is_at(file: &File, path: &Path) -> bool {
    let id = |found: fs::Metadata| (found.dev(), found.ino());
    let (open, named) = (file.metadata().map(id), fs::metadata(path).map(id));
    open.is_ok_and(|open| named.is_ok_and(|named| named == open))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readers_share_a_lock_and_a_writer_keeps_it_for_itself() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("db");
        assert!(ReadLock::new(&path).unwrap().is_none());
        fs::create_dir(&path).unwrap();
        let writer = File::open(&path).unwrap();
        let readers = [(); 2].map(|()| ReadLock::new(&path).unwrap().unwrap());
        assert!(writer.try_lock().is_err());
        drop(readers);
        writer.try_lock().unwrap();
        let error = ReadLock::new(&path).unwrap_err();
        assert_eq!(error.kind(), cas_core::ErrorKind::Busy);
        // A writer that releases the lock within `PATIENCE` does not cause an error.
        thread::scope(|scope| {
            let reader = scope.spawn(|| ReadLock::new(&path).map(|lock| lock.is_some()));
            writer.unlock().unwrap();
            assert!(reader.join().unwrap().unwrap());
        });
    }
}
