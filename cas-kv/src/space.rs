//! Accounts for disk space. The free space is checked before bytes are added, because an engine
//! that runs out of space inside a commit accepts no more writes. A reserve makes removals possible
//! on a full disk.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use cas_core::{Error, ErrorKind, Result};
use cas_host::calls;
use rustix::fs::FallocateFlags;

use crate::head::open_no_follow;

/// The name of the file of the reserve that takes up space. The names of its other files, which are
/// empty, are this name, a full stop and a number.
pub(crate) const RESERVE: &str = "reserve";
/// Bytes kept free, in addition to the reserve, for the overhead of a commit.
const MARGIN: u64 = 1 << 20;

/// Number of bytes by which the reserve gets smaller until it fits on an almost full disk.
const STEP: u64 = 64 << 10;

/// When an engine can reuse the space of removed rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reuse {
    /// At once: the space stays in the file, as free pages.
    Immediate,
    /// After a compaction.
    AfterCompaction,
}

/// Creates the reserve again after the engine has closed its files, because closing them may have
/// used the reserve up.
pub(crate) struct KeptReserve(pub(crate) Space);

impl Drop for KeptReserve {
    fn drop(&mut self) {
        self.0.reserve(STEP, 0);
    }
}

/// The size of a reserve: the disk space and the inodes that its removal frees on a full disk.
#[derive(Clone, Copy, Debug)]
pub struct Reserve {
    /// The number of bytes, which must be more than the engine writes to remove a blob and to open
    /// the database.
    pub bytes: u64,
    /// The number of empty files, each of which takes up an inode. This must be at least the number
    /// of files that the engine creates to remove a blob and to open the database.
    pub files: u32,
}

/// Disk space accounting of one database, and its reserve: files that take up space and inodes of
/// the disk. The files are removed on a full disk, so that blobs can be removed.
#[derive(Clone, Debug)]
pub struct Space(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    path: PathBuf,
    reserve: Reserve,
    reuse: Reuse,
    dir: File,
    /// Bytes that were added and may be in memory only.
    unsynced: AtomicU64,
    /// Bytes that were removed and whose space is not used again yet.
    removed: AtomicU64,
}

impl Space {
    /// Returns the accounting for a database in `dir`. Creates no reserve.
    ///
    /// # Errors
    /// Errors of the file system.
    pub fn new(dir: &Path, reserve: Reserve, reuse: Reuse) -> io::Result<Self> {
        Ok(Space(Arc::new(Inner {
            path: dir.join(RESERVE),
            reserve,
            reuse,
            dir: File::open(dir)?,
            unsynced: AtomicU64::new(0),
            removed: AtomicU64::new(0),
        })))
    }

    /// Creates the missing files of the reserve. The file with bytes is not created if not all its
    /// bytes fit on the disk. If not all empty files fit, there are none. The store also works
    /// without these files.
    pub(crate) fn create_reserve(&self) {
        let Reserve { bytes, files } = self.0.reserve;
        self.reserve(bytes, files);
    }

    /// Creates the missing files of the reserve. On an almost full disk, the reserve is smaller: a
    /// new file with bytes has at least `bytes` bytes or is not created, and there are at least
    /// `files` empty files or none.
    fn reserve(&self, bytes: u64, files: u32) {
        self.reserve_bytes(bytes);
        let is_there = |path: &PathBuf| path.exists() || create(path).is_ok();
        if self.others().take_while(is_there).count() < files as usize {
            self.others().for_each(|path| {
                let _ = std::fs::remove_file(path);
            });
        }
    }

    /// Creates the file with the bytes of the reserve, or enlarges it if it is too small, as far as
    /// bytes fit on the disk. A new file has at least `least` bytes or is not created. Does nothing
    /// if something else, such as a pipe, is in the place of the file.
    fn reserve_bytes(&self, least: u64) {
        let path = &self.0.path;
        let (wanted, found) = (self.0.reserve.bytes, path.symlink_metadata().ok());
        let is_there = found.is_some();
        let length = found.as_ref().map_or(0, std::fs::Metadata::len);
        // A check reports something else in the place of the file.
        if found.is_some_and(|found| !found.is_file() || length >= wanted) {
            return;
        }
        let opened = match is_there {
            false => create(path),
            true => open_no_follow(OpenOptions::new().write(true), path),
        };
        let Ok(file) = opened else {
            return;
        };
        let mut size = wanted;
        while calls::fallocate(&file, FallocateFlags::empty(), 0, size).is_err() {
            size = size.saturating_sub(STEP);
            if size < least || size <= length {
                if length == 0 {
                    let _ = std::fs::remove_file(path);
                }
                return;
            }
        }
    }

    /// Returns the paths of the files of the reserve that have no bytes.
    fn others(&self) -> impl Iterator<Item = PathBuf> {
        let name = |number: u32| self.0.path.with_added_extension(number.to_string());
        (1..=self.0.reserve.files).map(name)
    }

    /// Removes the files of the reserve, to free their space and inodes. Returns whether any file
    /// was removed.
    pub fn release_reserve(&self) -> bool {
        let all = std::iter::once(self.0.path.clone()).chain(self.others());
        let removed = all
            .filter(|path| std::fs::remove_file(path).is_ok())
            .count();
        if removed > 0 {
            // btrfs gives the space to others only after the removal is durable.
            let _ = cas_host::syncfs(&self.0.dir);
        }
        removed > 0
    }

    /// Checks that the disk has room for `bytes` more and for `pending` bytes of the engine, and
    /// counts `bytes` as added.
    ///
    /// # Errors
    /// `Full` if there is not enough room, before the engine writes anything; errors of the file
    /// system.
    pub(crate) fn claim(&self, bytes: u64, pending: u64) -> Result<()> {
        let removed = self.0.removed.load(Ordering::Relaxed);
        let unsynced = self.0.unsynced.load(Ordering::Relaxed);
        // A row may take twice its size. The space of removed rows is used again.
        let needed = (unsynced + pending + 2 * bytes + MARGIN).saturating_sub(removed);
        let free = self.free_bytes()?;
        if needed > free {
            return Err(Error::new(
                ErrorKind::Full,
                format!(
                    "expected {needed} free bytes on the disk, found {free}; free some space or \
                     remove blobs"
                ),
            ));
        }
        self.0.unsynced.fetch_add(bytes, Ordering::Relaxed);
        let less = |removed: u64| Some(removed.saturating_sub(bytes));
        let _ = (self.0.removed).fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
        Ok(())
    }

    /// Counts `bytes` as removed, if the engine can reuse their space at once ([`Reuse`]).
    /// Otherwise does nothing.
    pub(crate) fn add_removed(&self, bytes: u64) {
        if self.0.reuse == Reuse::Immediate {
            self.0.removed.fetch_add(bytes, Ordering::Relaxed);
        }
    }

    /// Sets to zero the number of removed bytes whose space the engine can reuse. The engine calls
    /// this after it has returned this space to the file system.
    pub fn reset_removed(&self) {
        self.0.removed.store(0, Ordering::Relaxed);
    }

    /// Returns the number of bytes that count as added, and that [`Space::mark_synced`] has not
    /// counted as synced yet.
    pub fn unsynced_bytes(&self) -> u64 {
        self.0.unsynced.load(Ordering::Relaxed)
    }

    /// Counts `bytes` as synced. `bytes` is the value of [`Space::unsynced_bytes`] before the sync.
    pub fn mark_synced(&self, bytes: u64) {
        self.0.unsynced.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Returns the number of free bytes of the file system.
    ///
    /// # Errors
    /// Errors of the file system.
    pub fn free_bytes(&self) -> io::Result<u64> {
        let status = rustix::fs::fstatvfs(&self.0.dir)?;
        Ok(status.f_bavail.saturating_mul(status.f_frsize))
    }
}

/// Creates an empty file that does not exist.
fn create(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true).mode(0o600);
    options.open(path)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "helpers of tests")]

    use super::*;

    #[test]
    fn a_reserve_that_is_absent_empty_or_too_small_gets_its_size() {
        let temp = tempfile::tempdir().unwrap();
        let reserve = Reserve {
            bytes: 4 * STEP,
            files: 0,
        };
        let space = Space::new(temp.path(), reserve, Reuse::Immediate).unwrap();
        let file = temp.path().join(RESERVE);
        for length in [
            None,
            Some(0),
            Some(STEP),
            Some(4 * STEP - 1),
            Some(4 * STEP),
        ] {
            let _ = std::fs::remove_file(&file);
            if let Some(length) = length {
                std::fs::write(&file, vec![0; length as usize]).unwrap();
            }
            space.create_reserve();
            assert_eq!(file.metadata().unwrap().len(), 4 * STEP, "{length:?}");
        }
    }
}
