//! The lock of a `dir:` store: a file with the pid of the process that has the store open.

use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::thread;
use std::time::Duration;

use cas_core::{Error, Result};

/// The name of the file.
pub(crate) const LOCK: &str = "lock";
/// Maximum number of reads of the file, while it does not name a running process.
const PID_READS: usize = 20;
/// Time between these reads, in which a new owner can write its pid.
const PID_DELAY: Duration = Duration::from_millis(5);

/// The lock, held until the value is dropped.
pub(crate) struct Owner {
    file: File,
    writable: bool,
}

impl Owner {
    /// Locks the directory. If it can only be read, shares it with other processes that only read.
    ///
    /// # Errors
    /// `Busy`, with the pid of the owner if it is known, if another process has it open; errors of
    /// the file system.
    pub(crate) fn claim(dir: &Path) -> Result<Self> {
        let (file, writable) = match open(dir, true) {
            Err(error) if cannot_write(&error) => (open(dir, false)?, false),
            opened => (opened?, true),
        };
        let locked = match writable {
            true => file.try_lock(),
            false => file.try_lock_shared(),
        };
        match locked {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(busy(&file)),
            Err(TryLockError::Error(error)) => return Err(error.into()),
        }
        let owner = Owner { file, writable };
        owner.write_pid(&std::process::id().to_string());
        Ok(owner)
    }

    /// Returns whether the process can write to the directory.
    pub(crate) fn is_writable(&self) -> bool {
        self.writable
    }

    /// Writes the pid of the owner. Failure is ignored: only error messages use the pid, and a
    /// file that can only be read gets none.
    fn write_pid(&self, text: &str) {
        let _ = self.file.write_all_at(text.as_bytes(), 0);
        let _ = self.file.set_len(text.len() as u64);
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        self.write_pid("");
        // Closing is not enough: a child between fork and exec may share the open file.
        let _ = self.file.unlock();
    }
}

/// Opens the file, and creates it if it is to be written. Does not follow a symbolic link, which
/// another user may have placed there.
fn open(dir: &Path, writable: bool) -> io::Result<File> {
    let nofollow = rustix::fs::OFlags::NOFOLLOW.bits().cast_signed();
    OpenOptions::new()
        .read(true)
        .write(writable)
        .create(writable)
        .truncate(false)
        .mode(0o600)
        .custom_flags(nofollow)
        .open(dir.join(LOCK))
}

/// Returns whether a file could not be opened because it can only be read.
fn cannot_write(error: &io::Error) -> bool {
    use io::ErrorKind::{PermissionDenied, ReadOnlyFilesystem};
    matches!(error.kind(), PermissionDenied | ReadOnlyFilesystem)
}

/// Returns the error for a directory with another owner, with the owner's pid. The file may still
/// have the pid of a crashed owner, which the new owner replaces at once.
fn busy(file: &File) -> Error {
    for _ in 0..PID_READS {
        if let Some(pid) = read_pid(file)
            && Path::new("/proc").join(pid.to_string()).exists()
        {
            return Error::busy(format!(
                "process {pid} has the store open; wait until it ends"
            ));
        }
        thread::sleep(PID_DELAY);
    }
    Error::busy("another process has the store open; wait until it ends")
}

fn read_pid(file: &File) -> Option<u32> {
    let mut text = [0; 11];
    let length = file.read_at(&mut text, 0).ok()?;
    // Earlier releases wrote a line.
    let text = std::str::from_utf8(&text[..length]).ok()?;
    text.trim_end().parse().ok()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{MetadataExt, symlink};

    use cas_core::ErrorKind;

    use super::*;

    fn refused(dir: &Path) -> String {
        let error = Owner::claim(dir).err().unwrap();
        assert_eq!(error.kind(), ErrorKind::Busy, "{error}");
        error.to_string()
    }

    #[test]
    fn the_file_names_the_owner_until_it_ends() {
        let home = tempfile::tempdir().unwrap();
        let (dir, file) = (home.path(), home.path().join(LOCK));
        let own = std::process::id().to_string();
        for left in ["", "4294967294\n", "4294967294", "nonsense", "-1", "1 2"] {
            fs::write(&file, left).unwrap();
            let owner = Owner::claim(dir).unwrap();
            assert!(owner.is_writable());
            assert_eq!(fs::read_to_string(&file).unwrap(), own);
            assert!(refused(dir).contains(&format!("process {own} has")));
            fs::write(&file, left).unwrap();
            let text = refused(dir);
            assert!(text.contains("another process has"), "{left:?}: {text}");
            drop(owner);
            assert_eq!(fs::read_to_string(&file).unwrap(), "", "after {left:?}");
        }
        fs::write(&file, format!("{own}\n")).unwrap();
        let other = File::open(&file).unwrap();
        other.lock().unwrap();
        assert!(refused(dir).contains(&own), "of an earlier release");
    }

    #[test]
    fn a_link_is_not_followed_and_others_cannot_open_the_file() {
        let home = tempfile::tempdir().unwrap();
        let target = home.path().join("target");
        for text in ["precious", ""] {
            fs::write(&target, text).unwrap();
            symlink(&target, home.path().join(LOCK)).unwrap();
            assert!(Owner::claim(home.path()).is_err());
            assert_eq!(fs::read_to_string(&target).unwrap(), text);
            fs::remove_file(home.path().join(LOCK)).unwrap();
        }
        symlink(home.path().join("absent"), home.path().join(LOCK)).unwrap();
        assert!(Owner::claim(home.path()).is_err());
        assert!(!home.path().join("absent").exists());
        fs::remove_file(home.path().join(LOCK)).unwrap();
        drop(Owner::claim(home.path()).unwrap());
        let mode = fs::metadata(home.path().join(LOCK)).unwrap().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
}
