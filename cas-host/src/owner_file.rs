//! A locked file with the pid of the process that has a store open.

use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::thread;
use std::time::Duration;

use cas_core::{Error, Result};
use rustix::fs::OFlags;

use crate::cannot_write;

/// Maximum number of reads of a file that does not name a running process yet.
const PID_READS: usize = 20;
/// Time between these reads, in which a new owner can write its pid.
const PID_DELAY: Duration = Duration::from_millis(5);

/// Maximum number of times that the lock is tried again if the file names this process. A thread
/// that has just answered the last call of a closed store may still have to drop the store.
const OWN_ATTEMPTS: usize = 60;

/// A file that this process keeps locked until the value is dropped. If this process can write to
/// the file, the file contains the pid of this process. Other processes show the pid in their error
/// messages.
#[derive(Debug)]
pub struct OwnerFile {
    file: File,
    writable: bool,
}

impl OwnerFile {
    /// Locks the file, and creates it if it does not exist. If the file can only be read, shares
    /// the lock with other processes that can only read it. If the file names this process, waits
    /// up to 0.3 seconds for the lock.
    ///
    /// # Errors
    /// `Busy` if another process, or another `OwnerFile` of this process, has a lock on the file
    /// that cannot be shared (the message has the pid of the owner, if the pid is known);
    /// `FailedPrecondition` if `path` is a symbolic link; errors of the file system.
    pub fn claim(path: &Path) -> Result<Self> {
        let (file, writable) = match open(path, true) {
            Err(error) if cannot_write(&error) => (open(path, false)?, false),
            opened => (opened?, true),
        };
        let mut attempts = 0;
        loop {
            let locked = if writable {
                file.try_lock()
            } else {
                file.try_lock_shared()
            };
            match locked {
                Ok(()) => break,
                Err(TryLockError::WouldBlock) if attempts < OWN_ATTEMPTS && is_own(&file) => {
                    attempts += 1;
                    thread::sleep(PID_DELAY);
                }
                Err(TryLockError::WouldBlock) => return Err(busy(&file)),
                Err(TryLockError::Error(error)) => return Err(error.into()),
            }
        }
        let owner = OwnerFile { file, writable };
        owner.write_pid(&std::process::id().to_string());
        Ok(owner)
    }

    /// Returns whether the process can write to the file.
    pub fn is_writable(&self) -> bool {
        self.writable
    }

    /// Writes the pid of the owner. Failure is ignored: only error messages use the pid, and a
    /// file that can only be read gets none.
    fn write_pid(&self, text: &str) {
        let _ = self.file.write_all_at(text.as_bytes(), 0);
        let _ = self.file.set_len(text.len() as u64);
    }
}

impl Drop for OwnerFile {
    fn drop(&mut self) {
        self.write_pid("");
        // Closing is not enough: a child between fork and exec may share the open file.
        let _ = self.file.unlock();
    }
}

/// Opens the file, and creates it if it is to be written. Does not follow a symbolic link, which
/// another user may have placed there. Does not wait if `path` is a pipe.
fn open(path: &Path, writable: bool) -> io::Result<File> {
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    OpenOptions::new()
        .read(true)
        .write(writable)
        .create(writable)
        .truncate(false)
        .mode(0o600)
        .custom_flags(flags.bits().cast_signed())
        .open(path)
}

/// Returns the error for a file that another owner has locked, with the pid of the owner if the
/// file names a running process. The file may still contain the pid of a crashed owner. The new
/// owner replaces this pid at once, so the file is read again after a short wait.
fn busy(file: &File) -> Error {
    for _ in 0..PID_READS {
        if let Some(pid) = read_pid(file)
            && Path::new("/proc").join(pid.to_string()).exists()
        {
            return Error::busy(format!(
                "process {pid} has the store open; a process that can write to the store needs \
                 exclusive access: wait until process {pid} ends, or end it"
            ));
        }
        thread::sleep(PID_DELAY);
    }
    Error::busy(
        "another process has the store open; a process that can write to the store needs exclusive \
         access: wait until the other process ends, or end it",
    )
}

/// Returns whether the file names this process.
fn is_own(file: &File) -> bool {
    read_pid(file) == Some(std::process::id())
}

fn read_pid(file: &File) -> Option<u32> {
    let mut text = [0; 11];
    let length = file.read_at(&mut text, 0).ok()?;
    // In `dir://` stores, earlier releases wrote a line feed after the pid.
    let text = std::str::from_utf8(&text[..length]).ok()?;
    text.trim_end().parse().ok()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{MetadataExt, symlink};

    use cas_core::ErrorKind;

    use super::*;

    fn refused(file: &Path) -> String {
        let error = OwnerFile::claim(file).err().unwrap();
        assert_eq!(error.kind(), ErrorKind::Busy, "{error}");
        error.to_string()
    }

    #[test]
    fn an_owner_that_is_dropped_meanwhile_is_waited_for() {
        let home = tempfile::tempdir().unwrap();
        let file = home.path().join("owner");
        let owner = OwnerFile::claim(&file).unwrap();
        thread::scope(|scope| {
            scope.spawn(|| {
                thread::sleep(2 * PID_DELAY);
                drop(owner);
            });
            assert!(OwnerFile::claim(&file).is_ok());
        });
    }

    #[test]
    fn the_file_names_the_owner_until_it_ends() {
        let home = tempfile::tempdir().unwrap();
        let file = home.path().join("owner");
        let own = std::process::id().to_string();
        for left in ["", "4294967294\n", "4294967294", "nonsense", "-1", "1 2"] {
            fs::write(&file, left).unwrap();
            let owner = OwnerFile::claim(&file).unwrap();
            assert!(owner.is_writable());
            assert_eq!(fs::read_to_string(&file).unwrap(), own);
            assert!(refused(&file).contains(&format!("process {own} has")));
            fs::write(&file, left).unwrap();
            let text = refused(&file);
            assert!(text.contains("another process has"), "{left:?}: {text}");
            drop(owner);
            assert_eq!(fs::read_to_string(&file).unwrap(), "", "after {left:?}");
        }
        fs::write(&file, format!("{own}\n")).unwrap();
        let other = File::open(&file).unwrap();
        other.lock().unwrap();
        assert!(refused(&file).contains(&own), "of an earlier release");
    }

    #[test]
    fn a_link_is_not_followed_and_others_cannot_open_the_file() {
        let home = tempfile::tempdir().unwrap();
        let [file, target] = ["owner", "target"].map(|name| home.path().join(name));
        for text in ["precious", ""] {
            fs::write(&target, text).unwrap();
            symlink(&target, &file).unwrap();
            assert!(OwnerFile::claim(&file).is_err());
            assert_eq!(fs::read_to_string(&target).unwrap(), text);
            fs::remove_file(&file).unwrap();
        }
        symlink(home.path().join("absent"), &file).unwrap();
        assert!(OwnerFile::claim(&file).is_err());
        assert!(!home.path().join("absent").exists());
        fs::remove_file(&file).unwrap();
        drop(OwnerFile::claim(&file).unwrap());
        let mode = fs::metadata(&file).unwrap().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
}
