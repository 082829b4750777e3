//! Space on the disk: looked at before bytes are added, for an engine that runs out of it in the
//! middle of a commit takes nothing more; and a reserve for removals on a full disk.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use cas_core::{Error, ErrorKind, Result};
use rustix::fs::FallocateFlags;

/// The name of the reserve.
pub(crate) const RESERVE: &str = "reserve";
/// Left free beside the reserve for what a commit writes of its own.
const MARGIN: u64 = 1 << 20;

/// The reserve and what is known of the space around it.
#[derive(Clone, Debug)]
pub struct Space(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    reserve: PathBuf,
    size: u64,
    reuses: bool,
    dir: File,
    /// Bytes that were added and may still be in memory only.
    unsynced: AtomicU64,
    /// Bytes that were removed and not added again: their pages are in the file, free.
    removed: AtomicU64,
}

impl Space {
    /// The space in the directory `dir`. The reserve has `size` bytes,
    /// more than a removal and an opening write; an engine that `reuses` what was removed has as
    /// much more.
    pub fn new(dir: &Path, size: u64, reuses: bool) -> io::Result<Self> {
        Ok(Space(Arc::new(Inner {
            reserve: dir.join(RESERVE),
            size,
            reuses,
            dir: File::open(dir)?,
            unsynced: AtomicU64::new(0),
            removed: AtomicU64::new(0),
        })))
    }

    /// Takes the reserve where it is not there; without space there is none, and nothing is lost.
    pub(crate) fn keep_back(&self) {
        let path = &self.0.reserve;
        if path.exists() {
            return;
        }
        let mut options = OpenOptions::new();
        options.write(true).create_new(true).mode(0o600);
        let taken = options.open(path).and_then(|file| {
            Ok(rustix::fs::fallocate(
                file,
                FallocateFlags::empty(),
                0,
                self.0.size,
            )?)
        });
        if taken.is_err() {
            self.release();
        }
    }

    /// Gives the reserve up; false when there was none.
    pub fn release(&self) -> bool {
        std::fs::remove_file(&self.0.reserve).is_ok()
    }

    /// Checks that `bytes` more fit beside those that are `owed`, and counts them.
    ///
    /// # Errors
    /// `Full`, before the engine meets it.
    pub(crate) fn take(&self, bytes: u64, owed: u64) -> Result<()> {
        let removed = self.0.removed.load(Ordering::Relaxed);
        let waiting = self.0.unsynced.load(Ordering::Relaxed);
        // A row may take twice its size; what was removed is there to be used again.
        let wanted = (waiting + owed + 2 * bytes + MARGIN).saturating_sub(removed);
        let free = self.free()?;
        if wanted > free {
            return Err(Error::new(
                ErrorKind::Full,
                format!(
                    "expected {wanted} free bytes on the disk, found {free}; free some space or \
                     remove blobs"
                ),
            ));
        }
        self.0.unsynced.fetch_add(bytes, Ordering::Relaxed);
        let less = |removed: u64| Some(removed.saturating_sub(bytes));
        let _ = (self.0.removed).fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
        Ok(())
    }

    /// Counts bytes that were removed.
    pub(crate) fn give_back(&self, bytes: u64) {
        if self.0.reuses {
            self.0.removed.fetch_add(bytes, Ordering::Relaxed);
        }
    }

    /// Bytes that were removed and not added again since the store was opened.
    pub fn removed(&self) -> u64 {
        self.0.removed.load(Ordering::Relaxed)
    }

    /// Tells that the file system has them again.
    pub fn reused(&self) {
        self.0.removed.store(0, Ordering::Relaxed);
    }

    /// Bytes that a sync which begins now covers.
    pub fn unsynced(&self) -> u64 {
        self.0.unsynced.load(Ordering::Relaxed)
    }

    /// Tells that so many bytes are on the disk.
    pub fn synced(&self, covered: u64) {
        self.0.unsynced.fetch_sub(covered, Ordering::Relaxed);
    }

    /// Bytes that are free on the disk.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn free(&self) -> io::Result<u64> {
        let status = rustix::fs::fstatvfs(&self.0.dir)?;
        Ok(status.f_bavail.saturating_mul(status.f_frsize))
    }
}
