//! The directories of a snapshotter, numbered, safe between processes.
//!
//! ```text
//! ROOT/                 0700
//!   snapshots/          0700
//!     7/                0700, one snapshot; whoever builds or commits it holds a lock on it
//! ```
//! A directory is made under a number that was never used and is built in place: it is nothing
//! until a record names it. The lock (`flock`) lives in the directory itself and dies with its
//! owner, so [`SnapshotDirs::claim`] tells a leftover from one that is still being built.

use std::fs::{DirBuilder, File};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use cas_core::error::{Context, Error, Result};
use cas_core::snapshot::Usage;
use rustix::fs::{AtFlags, FlockOperation, Mode, OFlags};
use rustix::io::Errno;

use crate::{syncfs, tree};

/// The root of a snapshot's tree, in its directory.
pub const TREE: &str = "fs";

/// The numbered directories below a root.
pub struct SnapshotDirs {
    path: PathBuf,
    dir: File,
    /// After a failed sync nobody knows which content is on disk.
    failed: AtomicBool,
}

/// A snapshot's directory under lock; the lock ends with this.
pub struct Held(File);

impl AsFd for Held {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl SnapshotDirs {
    /// Opens the directories below `root`, made where it is new.
    ///
    /// # Errors
    /// Those of the file system, naming the path.
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

    /// Where the directory of `id` is.
    pub fn path(&self, id: u64) -> PathBuf {
        self.path.join(id.to_string())
    }

    /// Makes the directory of `id` and holds it; nothing when the number was used before.
    ///
    /// # Errors
    /// Those of the file system, naming the path.
    pub fn create(&self, id: u64) -> Result<Option<Held>> {
        match rustix::fs::mkdirat(&self.dir, id.to_string(), Mode::RWXU) {
            Err(Errno::EXIST) => Ok(None),
            made => {
                let made = made.map_err(io::Error::from);
                made.during("make directory", self.path(id).display())?;
                self.claim(id)
            }
        }
    }

    /// Makes the entries of a new directory, and its own, outlive a loss of power.
    ///
    /// # Errors
    /// Those of the device.
    pub fn sync(&self, held: &Held) -> Result<()> {
        held.0.sync_all().during("sync", self.path.display())?;
        self.dir.sync_all().during("sync", self.path.display())
    }

    /// Makes all content durable, that of the others on the same file system too. The kernel tells
    /// a failure once and then says yes, so that the first is final.
    ///
    /// # Errors
    /// Those of the device; `FailedPrecondition` once there was one.
    pub fn sync_content(&self, held: &Held) -> Result<()> {
        if self.failed.load(Ordering::Acquire) {
            let message = "an earlier sync failed; check the device, open the snapshotter anew, \
                           and make again what is not committed";
            return Err(Error::precondition(message)).during("sync", self.path.display());
        }
        syncfs(held).inspect_err(|_| self.failed.store(true, Ordering::Release))
    }

    /// Holds the directory against [`Self::claim`], together with others that do.
    ///
    /// # Errors
    /// `NotFound` when it is gone; those of the file system.
    pub fn hold(&self, id: u64) -> Result<Held> {
        let held = self.lock(id, FlockOperation::LockShared)?;
        held.ok_or_else(|| {
            Error::not_found("the directory of a snapshot is gone; remove the snapshot")
                .subject(self.path(id).display())
        })
    }

    /// Holds the directory alone; nothing while others hold it, or when it is gone.
    ///
    /// # Errors
    /// Those of the file system, naming the path.
    pub fn claim(&self, id: u64) -> Result<Option<Held>> {
        self.lock(id, FlockOperation::NonBlockingLockExclusive)
    }

    /// The numbers of all directories that are there.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn ids(&self) -> Result<Vec<u64>> {
        self.list().during("list", self.path.display())
    }

    /// Removes the directory of `id` with all that is in it; what came back.
    ///
    /// # Errors
    /// `Busy` where something is mounted in it; those of the file system, naming the path.
    pub fn remove(&self, id: u64) -> Result<Usage> {
        tree::remove(&self.dir, &id.to_string())
    }

    fn list(&self) -> io::Result<Vec<u64>> {
        let mut ids = Vec::new();
        for entry in rustix::fs::Dir::read_from(&self.dir)? {
            // What has another name is none of ours.
            ids.extend(entry?.file_name().to_str().ok().and_then(number));
        }
        Ok(ids)
    }

    fn lock(&self, id: u64, operation: FlockOperation) -> Result<Option<Held>> {
        let held = self.try_lock(id, operation);
        held.during("lock", self.path(id).display())
    }

    fn try_lock(&self, id: u64, operation: FlockOperation) -> io::Result<Option<Held>> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let dir = match rustix::fs::openat(&self.dir, id.to_string(), flags, Mode::empty()) {
            Err(Errno::NOENT) => return Ok(None),
            opened => File::from(opened?),
        };
        match rustix::fs::flock(&dir, operation) {
            Err(Errno::WOULDBLOCK) => return Ok(None),
            locked => locked?,
        }
        // It may have been removed before it was locked.
        let alive = rustix::fs::fstat(&dir)?.st_nlink > 0;
        Ok(alive.then_some(Held(dir)))
    }
}

/// Makes the empty root of a snapshot's tree in its new directory.
///
/// # Errors
/// Those of the file system.
pub fn make_tree(held: &Held) -> Result<()> {
    let mode = Mode::from_raw_mode(0o755);
    let made = rustix::fs::mkdirat(held, TREE, mode);
    // The umask had its say.
    let made = made.and_then(|()| rustix::fs::chmodat(held, TREE, mode, AtFlags::empty()));
    made.map_err(io::Error::from).during("make directory", TREE)
}

/// A number as [`SnapshotDirs`] writes it.
fn number(name: &str) -> Option<u64> {
    let id: u64 = name.parse().ok()?;
    (id.to_string() == name).then_some(id)
}
