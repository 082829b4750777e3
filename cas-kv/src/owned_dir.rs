//! The directory of a store, which one process at a time owns.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use cas_core::{Error, Result};

use crate::space::RESERVE;

const OWNER: &str = "owner";
/// Maximum number of reads of the file `owner`, while it does not name a running process.
const PID_READS: usize = 20;
/// Time between these reads, in which a new owner can write its pid.
const PID_DELAY: Duration = Duration::from_millis(5);

/// The names that an engine uses in the directory and in messages.
#[derive(Clone, Copy, Debug)]
pub struct FileNames {
    /// The name of the engine, for messages.
    pub engine: &'static str,
    /// The file or directory of the database.
    pub database: &'static str,
    /// The temporary name of a database that is being created.
    pub new: &'static str,
}

/// A directory that this process owns until the value is dropped. If the process cannot write to
/// it, it shares the directory with other processes that only read.
///
/// It contains the database; `owner`, a locked file with the pid of the owner; and `reserve`, the
/// disk space that [`Space`](crate::Space) keeps for removals on a full disk.
#[derive(Debug)]
pub struct OwnedDir {
    path: PathBuf,
    names: FileNames,
    writable: bool,
    owner: File,
}

impl OwnedDir {
    /// Becomes the owner of the directory `path`, and creates it if it does not exist. On a
    /// read-only file system, or without the permission to write, becomes one of its readers.
    ///
    /// # Errors
    /// `Busy`, with the pid of the owner if it is known, if another process owns it;
    /// `FailedPrecondition` if it is a file or has other contents; errors of the file system.
    pub fn claim(path: &Path, names: FileNames) -> Result<Self> {
        if path.is_file() {
            return Err(Error::precondition(format!(
                "expected a directory, found a file; give the directory that contains {}",
                names.database
            )));
        }
        if !path.is_dir() {
            DirBuilder::new().recursive(true).mode(0o700).create(path)?;
            sync_parent(path)?;
        }
        refuse_foreign(path, names)?;
        let (owner, writable) = match open_owner(path, true) {
            Err(error) if cannot_write(&error) => (open_owner(path, false)?, false),
            opened => (opened?, true),
        };
        let locked = if writable {
            owner.try_lock()
        } else {
            owner.try_lock_shared()
        };
        match locked {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(busy(&owner)),
            Err(TryLockError::Error(error)) => return Err(error.into()),
        }
        let dir = OwnedDir {
            path: path.to_owned(),
            names,
            writable,
            owner,
        };
        dir.write_pid(&std::process::id().to_string());
        Ok(dir)
    }

    /// Renames the new database to its final name, durably.
    pub(crate) fn publish(&self) -> io::Result<()> {
        fs::rename(self.path.join(self.names.new), self.database())?;
        File::open(&self.path)?.sync_all()
    }

    /// Removes a database whose creation was interrupted. Returns the path to create a database at.
    pub(crate) fn remove_unfinished(&self) -> io::Result<PathBuf> {
        let new = self.path.join(self.names.new);
        let removed = if new.is_dir() {
            fs::remove_dir_all(&new)
        } else {
            fs::remove_file(&new)
        };
        match removed {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(new),
        }
    }

    /// Returns whether the process can write to the directory.
    pub(crate) fn is_writable(&self) -> bool {
        self.writable
    }

    /// Returns the path of the directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the path of the database, which may not exist yet.
    pub(crate) fn database(&self) -> PathBuf {
        self.path.join(self.names.database)
    }

    /// Writes the pid of the owner. Failure is ignored: only error messages use the pid.
    fn write_pid(&self, text: &str) {
        let _ = self.owner.write_all_at(text.as_bytes(), 0);
        let _ = self.owner.set_len(text.len() as u64);
    }
}

impl Drop for OwnedDir {
    fn drop(&mut self) {
        self.write_pid("");
        // Closing is not enough: a child between fork and exec may share the open file.
        let _ = self.owner.unlock();
    }
}

/// Opens the file `owner`, and creates it if it is to be written. Does not follow a symbolic link,
/// which another user may have placed there.
fn open_owner(dir: &Path, writable: bool) -> io::Result<File> {
    let nofollow = rustix::fs::OFlags::NOFOLLOW.bits().cast_signed();
    OpenOptions::new()
        .read(true)
        .write(writable)
        .create(writable)
        .truncate(false)
        .mode(0o600)
        .custom_flags(nofollow)
        .open(dir.join(OWNER))
}

/// Returns whether a file could not be opened because it can only be read.
fn cannot_write(error: &io::Error) -> bool {
    use io::ErrorKind::{PermissionDenied, ReadOnlyFilesystem};
    matches!(error.kind(), PermissionDenied | ReadOnlyFilesystem)
}

/// Syncs the parent directory, which has the new entry. Does not sync the directories above it.
fn sync_parent(path: &Path) -> io::Result<()> {
    match path.canonicalize()?.parent() {
        Some(parent) => File::open(parent)?.sync_all(),
        None => Ok(()),
    }
}

/// Refuses to create a store in a directory that contains other files.
fn refuse_foreign(path: &Path, names: FileNames) -> Result<()> {
    let FileNames {
        engine,
        database,
        new,
    } = names;
    if path.join(database).exists() {
        return Ok(());
    }
    // Files that an interrupted creation leaves.
    let ours = [new, OWNER, RESERVE];
    for entry in fs::read_dir(path)? {
        let name = entry?.file_name();
        if !ours.iter().any(|ours| name == *ours) {
            return Err(Error::precondition(format!(
                "the directory is not a {engine} store: found {name:?}, but not {database}; \
                 choose another directory"
            )));
        }
    }
    Ok(())
}

/// Returns the error for a directory with another owner, with the owner's pid. The file may still
/// have the pid of a crashed owner, which the new owner replaces at once.
fn busy(owner: &File) -> Error {
    for _ in 0..PID_READS {
        if let Some(pid) = read_pid(owner)
            && Path::new("/proc").join(pid.to_string()).exists()
        {
            return Error::busy(format!(
                "process {pid} has the store open; only one process can open it at a time: wait \
                 for it, or end it"
            ));
        }
        thread::sleep(PID_DELAY);
    }
    Error::busy(
        "another process has the store open; only one process can open it at a time: wait for it, \
         or end it",
    )
}

fn read_pid(owner: &File) -> Option<u32> {
    let mut text = [0; 10];
    let length = owner.read_at(&mut text, 0).ok()?;
    std::str::from_utf8(&text[..length]).ok()?.parse().ok()
}
