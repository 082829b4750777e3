//! The numbered directories of a snapshotter. Several processes may use them.
//!
//! ```text
//! ROOT/                 0700
//!   snapshots/          0700
//!     7/                0700, one snapshot; locked while it is built or committed
//! ```
//! A directory gets a number that was never used and is built in place. It has no meaning until a
//! record names it. The lock (`flock`) is on the directory itself and ends with its owner, so
//! [`SnapshotDirs::try_lock_exclusive`] distinguishes a leftover from a directory that is being
//! built.

use std::fs::{DirBuilder, File};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use cas_core::error::{Context, Error, Result};
use cas_core::snapshot::Usage;
use rustix::fs::{AtFlags, FlockOperation, Mode, OFlags};
use rustix::io::Errno;

use crate::calls;
use crate::{syncfs, tree};

/// The name of the root of a snapshot's tree in its directory.
pub const TREE: &str = "fs";

/// The numbered directories of a snapshotter.
pub struct SnapshotDirs {
    path: PathBuf,
    dir: File,
    /// Whether a sync has failed. It is then unknown which content is on disk.
    failed: AtomicBool,
}

/// A locked directory of a snapshot. Dropping it releases the lock.
pub struct LockedDir(File);

impl LockedDir {
    /// Returns the disk usage of the directory and everything in it.
    ///
    /// # Errors
    /// Errors of the file system, with the path.
    pub fn usage(&self) -> Result<Usage> {
        let mut usage = tree::measure(self)?;
        usage += Usage {
            bytes: self.0.metadata()?.blocks() * 512,
            inodes: 1,
        };
        Ok(usage)
    }
}

impl AsFd for LockedDir {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl SnapshotDirs {
    /// Opens the directories below `root`, which is created if it is absent.
    ///
    /// # Errors
    /// Errors of the file system, with the path.
    pub fn open(root: impl AsRef<Path>) -> Result<Self> {
        let path = std::path::absolute(root.as_ref().join("snapshots"))?;
        let mut builder = DirBuilder::new();
        let made = builder.recursive(true).mode(0o700).create(&path);
        made.during("make directory", path.display())?;
        let dir = File::open(&path).during("open directory", path.display())?;
        Ok(SnapshotDirs {
            path,
            dir,
            failed: AtomicBool::new(false),
        })
    }

    /// Returns the path of the directory of `id`.
    pub fn path(&self, id: u64) -> PathBuf {
        self.path.join(id.to_string())
    }

    /// Creates and locks the directory of `id`. Returns `None` if it exists already.
    ///
    /// # Errors
    /// Errors of the file system, with the path.
    pub fn create(&self, id: u64) -> Result<Option<LockedDir>> {
        match calls::mkdirat(&self.dir, &id.to_string(), Mode::RWXU) {
            Err(Errno::EXIST) => Ok(None),
            made => {
                let made = made.map_err(io::Error::from);
                made.during("make directory", self.path(id).display())?;
                self.try_lock_exclusive(id)
            }
        }
    }

    /// Makes the names in a new directory and the name of the directory durable.
    ///
    /// # Errors
    /// Errors of the device.
    pub fn sync(&self, dir: &LockedDir) -> Result<()> {
        dir.0.sync_all().during("sync", self.path.display())?;
        self.dir.sync_all().during("sync", self.path.display())
    }

    /// Makes all content on the file system durable. The kernel reports a failure only once, so the
    /// first failure is final.
    ///
    /// # Errors
    /// Errors of the device; `FailedPrecondition` after the first.
    pub fn sync_content(&self, dir: &LockedDir) -> Result<()> {
        if self.failed.load(Ordering::Acquire) {
            let message = "an earlier sync failed; check the device, reopen the snapshotter and \
                           prepare every snapshot again that is not committed";
            return Err(Error::precondition(message)).during("sync", self.path.display());
        }
        syncfs(dir).inspect_err(|_| self.failed.store(true, Ordering::Release))
    }

    /// Takes a shared lock on the directory, which excludes [`Self::try_lock_exclusive`]. Waits
    /// while another user has the exclusive lock.
    ///
    /// # Errors
    /// `NotFound` if the directory is absent; errors of the file system.
    pub fn lock_shared(&self, id: u64) -> Result<LockedDir> {
        let locked = self.lock(id, FlockOperation::LockShared)?;
        locked.ok_or_else(|| {
            Error::not_found("the directory of a snapshot is missing; remove the snapshot")
                .subject(self.path(id).display())
        })
    }

    /// Takes the exclusive lock on the directory. Returns `None` if it is locked or absent.
    ///
    /// # Errors
    /// Errors of the file system, with the path.
    pub fn try_lock_exclusive(&self, id: u64) -> Result<Option<LockedDir>> {
        self.lock(id, FlockOperation::NonBlockingLockExclusive)
    }

    /// Returns the numbers of all directories.
    ///
    /// # Errors
    /// Errors of the file system.
    pub fn ids(&self) -> Result<Vec<u64>> {
        self.list().during("list", self.path.display())
    }

    /// Removes the directory of `id` with everything in it. Returns the freed space.
    ///
    /// # Errors
    /// `Busy` if something is mounted in it; errors of the file system, with the path.
    pub fn remove(&self, id: u64) -> Result<Usage> {
        tree::remove(&self.dir, &id.to_string())
    }

    fn list(&self) -> io::Result<Vec<u64>> {
        let mut ids = Vec::new();
        for entry in rustix::fs::Dir::read_from(&self.dir)? {
            // Other names were not made here.
            ids.extend(entry?.file_name().to_str().ok().and_then(number));
        }
        Ok(ids)
    }

    fn lock(&self, id: u64, operation: FlockOperation) -> Result<Option<LockedDir>> {
        let locked = self.try_lock(id, operation);
        locked.during("lock", self.path(id).display())
    }

    fn try_lock(&self, id: u64, operation: FlockOperation) -> io::Result<Option<LockedDir>> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let dir = match calls::openat(&self.dir, &id.to_string(), flags, Mode::empty()) {
            Err(Errno::NOENT) => return Ok(None),
            opened => File::from(opened?),
        };
        match calls::flock(&dir, operation) {
            Err(Errno::WOULDBLOCK) => return Ok(None),
            locked => locked?,
        }
        // It may have been removed before it was locked.
        let exists = calls::fstat(&dir)?.st_nlink > 0;
        Ok(exists.then_some(LockedDir(dir)))
    }
}

/// Creates the empty root of a snapshot's tree in its new directory.
///
/// # Errors
/// Errors of the file system.
pub fn make_tree(dir: &LockedDir) -> Result<()> {
    let mode = Mode::from_raw_mode(0o755);
    let made = calls::mkdirat(dir, TREE, mode);
    // The umask may have changed the mode.
    let made = made.and_then(|()| calls::chmodat(dir, TREE, mode, AtFlags::empty()));
    made.map_err(io::Error::from).during("make directory", TREE)
}

/// Parses a number in the form that [`SnapshotDirs`] writes.
fn number(name: &str) -> Option<u64> {
    let id: u64 = name.parse().ok()?;
    (id.to_string() == name).then_some(id)
}
