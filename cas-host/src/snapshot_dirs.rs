//! The numbered directories of a snapshotter. Several processes may use them.
//!
//! ```text
//! ROOT/                 0700
//!   snapshots/          0700
//!     7/                0700, one snapshot; locked while it is built, committed or removed
//!   manifests/          0700
//!     7                 attributes and checksums of all files of the committed snapshot 7
//!     6.replaced        the key of the snapshot that had the directory 6 before a repair
//!     8.kept            empty; the snapshot 8 may have the only copy of files
//! ```
//! A new directory has a number that no other directory has or had, and is built in place. The
//! directory has no meaning until the record of a snapshot contains its number. The lock (`flock`)
//! is on the directory itself, and ends with the process that has the lock. So
//! [`SnapshotDirs::try_lock_exclusive`] locks a directory that a killed process has left, but not a
//! directory that is being built or removed.

mod beside;

use std::fmt;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::SystemTime;

use cas_core::error::{Context, Error, ErrorKind, Result};
use cas_core::snapshot::{Condition, Depth, Usage};
use rustix::fs::{AtFlags, FileType, FlockOperation, Mode, OFlags};
use rustix::io::Errno;

use crate::calls::{self, undisturbed};
use crate::checksum::Sums;
use crate::misplaced::with_article;
use crate::new_file::leftovers;
use crate::regular_file::open_file;
use crate::{Dir, cannot_write, manifest, remove, syncfs, tree};

/// The name that the root of a snapshot's tree has in the directory of the snapshot.
pub const TREE: &str = "fs";

/// The name of the directory next to `snapshots/` with the manifests and other small files.
const MANIFESTS: &str = "manifests";

const DIRECTORY: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

/// The numbered directories of a snapshotter. In each method, `id` is the number of a directory.
pub struct SnapshotDirs {
    path: PathBuf,
    /// The open directory `snapshots/`, or `None` if it is absent and cannot be created for lack of
    /// permission or on a read-only file system. Without this directory, there are no snapshots.
    dir: Option<File>,
    manifests: PathBuf,
    /// Whether a sync has failed. It is then unknown which content is on disk.
    failed: AtomicBool,
}

/// A locked directory of a snapshot. Dropping it releases the lock.
pub struct LockedDir(File);

impl LockedDir {
    /// Returns the disk usage of the directory and everything in it.
    ///
    /// # Errors
    /// `Unavailable` if a directory in it is moved meanwhile; errors of the file system.
    pub fn usage(&self) -> Result<Usage> {
        let mut usage = tree::measure(self)?;
        usage += Usage {
            bytes: undisturbed(|| self.0.metadata())?.blocks() * 512,
            inodes: 1,
        };
        Ok(usage)
    }
}

impl Drop for LockedDir {
    fn drop(&mut self) {
        // Closing is not enough: a child between fork and exec may have a copy of the file
        // descriptor.
        let _ = calls::flock(&self.0, FlockOperation::Unlock);
    }
}

impl AsFd for LockedDir {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl SnapshotDirs {
    /// Opens the directory `snapshots/` in `root`. Creates both if they are absent. If `snapshots/`
    /// cannot be created for lack of permission or on a read-only file system, there are no
    /// numbered directories, and methods that change a numbered directory return `Denied`.
    ///
    /// # Errors
    /// Errors of the file system, with the path.
    pub fn open(root: impl AsRef<Path>) -> Result<Self> {
        let path = root.as_ref().join("snapshots");
        let (path, dir) = match calls::make_dirs(&path) {
            Err(error) if cannot_write(&error) => {
                let absolute = std::path::absolute(&path);
                (absolute.during("open directory", path.display())?, None)
            }
            made => {
                made.during("make directory", path.display())?;
                // Mount tables have paths without symbolic links.
                let open = || {
                    let path = undisturbed(|| path.canonicalize())?;
                    let dir = calls::open(&path, DIRECTORY, Mode::empty())?;
                    Ok::<_, io::Error>((path, Some(File::from(dir))))
                };
                open().during("open directory", path.display())?
            }
        };
        let manifests = path.with_file_name(MANIFESTS);
        Ok(SnapshotDirs {
            path,
            dir,
            manifests,
            failed: AtomicBool::new(false),
        })
    }

    /// Returns the path of the directory of `id`.
    pub fn path(&self, id: u64) -> PathBuf {
        self.path.join(id.to_string())
    }

    /// Returns the path of the tree in the directory of `id`, to mount it. A mount would follow a
    /// symbolic link, so a link in the place of the directory or of its tree is an error. The tree
    /// may be missing.
    ///
    /// # Errors
    /// `Corrupt` if something else is in the place of the directory or of its tree; errors of the
    /// file system, with the path.
    pub fn tree(&self, id: u64) -> Result<PathBuf> {
        let path = self.path(id).join(TREE);
        match self.misplaced(id).during("open", path.display())? {
            None => Ok(path),
            Some(what) => Err(not_a_directory(&what)).during("open", path.display()),
        }
    }

    /// Returns a description of the entry in the place of the directory of `id` or of its tree, if
    /// the entry is not a directory.
    fn misplaced(&self, id: u64) -> io::Result<Option<String>> {
        let Some(dir) = &self.dir else {
            return Ok(None);
        };
        for name in [id.to_string(), format!("{id}/{TREE}")] {
            let kind = match calls::statat(dir, &name, AtFlags::SYMLINK_NOFOLLOW) {
                Err(Errno::NOENT) => return Ok(None),
                found => FileType::from_raw_mode(found?.st_mode),
            };
            if kind != FileType::Directory {
                let kind = with_article(kind);
                return Ok(Some(format!("{name} is {kind}, not a directory")));
            }
        }
        Ok(None)
    }

    /// Returns the path of the directory `name` next to `snapshots/`.
    pub fn beside(&self, name: &str) -> PathBuf {
        self.path.with_file_name(name)
    }

    /// Creates and locks the directory of `id`. Returns `None` if the directory exists already, or
    /// if another process locks or removes the new directory before this call locks it.
    ///
    /// # Errors
    /// Errors of the file system, with the path.
    pub fn create(&self, id: u64) -> Result<Option<LockedDir>> {
        match calls::mkdirat(self.writable()?, &id.to_string(), Mode::RWXU) {
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
        let synced = self.writable()?.sync_all();
        synced.during("sync", self.path.display())
    }

    /// Makes all content on the file system of `dir` durable. The kernel reports a failure only
    /// once, so after a failure, all later calls fail.
    ///
    /// # Errors
    /// Errors of the device; `FailedPrecondition` if an earlier call failed.
    pub fn sync_content(&self, dir: &LockedDir) -> Result<()> {
        if self.failed.load(Ordering::Acquire) {
            let message = "an earlier sync failed; check the device, reopen the snapshotter, and \
                           prepare all uncommitted snapshots again";
            return Err(Error::precondition(message)).during("sync", self.path.display());
        }
        syncfs(dir).inspect_err(|_| self.failed.store(true, Ordering::Release))
    }

    /// Waits while another caller has the exclusive lock on the directory of `id`. Returns the
    /// directory with a shared lock. Until this lock is released, [`Self::try_lock_exclusive`]
    /// returns `None`.
    ///
    /// # Errors
    /// `NotFound` if the directory is absent; `Corrupt` if something else is in its place; errors
    /// of the file system.
    pub fn lock_shared(&self, id: u64) -> Result<LockedDir> {
        let locked = self.lock(id, FlockOperation::LockShared)?;
        locked.ok_or_else(|| {
            Error::not_found("the directory of a snapshot is missing; run `cas fsck --repair`")
                .subject(self.path(id).display())
        })
    }

    /// Takes the exclusive lock on the directory of `id`. Returns `None` if the directory is locked
    /// or absent.
    ///
    /// # Errors
    /// `Corrupt` if something else is in the place of the directory; errors of the file system,
    /// with the path.
    pub fn try_lock_exclusive(&self, id: u64) -> Result<Option<LockedDir>> {
        self.lock(id, FlockOperation::NonBlockingLockExclusive)
    }

    /// Returns the disk usage of everything in the directory of `id`.
    ///
    /// # Errors
    /// `NotFound` if the directory is absent; `Corrupt` if something else is in its place;
    /// `Unavailable` if a directory in it is moved meanwhile; errors of the file system, with the
    /// path.
    pub fn measure(&self, id: u64) -> Result<Usage> {
        let dir = self.open_dir(id).map_err(directory_error);
        tree::measure(&dir.during("measure", self.path(id).display())?)
    }

    /// Returns the numbers of all directories.
    ///
    /// # Errors
    /// Errors of the file system.
    pub fn ids(&self) -> Result<Vec<u64>> {
        self.list().during("list", self.path.display())
    }

    /// Returns the space that temporary files of killed processes take, for each directory that has
    /// such files. Removes these files if `remove` is set.
    ///
    /// # Errors
    /// Errors of the file system if the directories cannot be listed. A directory that cannot be
    /// opened is skipped.
    pub(crate) fn temporary_files(&self, remove: bool) -> Result<Vec<Usage>> {
        let ids = self.ids()?;
        // The parent directory may be absent in a root that cannot be written.
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let all = Dir::open(&self.path).during("open", self.path.display())?;
        let opened = ids
            .into_iter()
            .filter_map(|id| all.open_dir(&id.to_string()).ok());
        let mut found: Vec<Usage> = opened.map(|dir| leftovers(&dir, remove)).collect();
        found.retain(|usage| *usage != Usage::default());
        Ok(found)
    }

    /// Removes the small files of `id` in the directory `manifests/`, which is next to
    /// `snapshots/`. Then removes the directory of `id` with everything in it. Returns the freed
    /// space. If a file is in the place of the directory, removes the file, but does not count its
    /// space.
    ///
    /// # Errors
    /// `Busy` if something is mounted in the directory; `Unavailable` if a directory in it is moved
    /// meanwhile; errors of the file system, with the path.
    pub fn remove(&self, id: u64) -> Result<Usage> {
        let mut freed = self.remove_beside(id)?;
        freed += remove::remove(self.writable()?, &id.to_string())?;
        Ok(freed)
    }

    /// Writes the manifest of the tree of `id`, for [`Self::check`]. The manifest is not synced, so
    /// a loss of power may undo the write.
    ///
    /// # Errors
    /// `Unavailable` if a directory in the tree is moved meanwhile; errors of the file system, with
    /// the path.
    pub fn write_manifest(&self, id: u64, dir: &LockedDir) -> Result<()> {
        let path = self.manifest(id);
        let write = || {
            calls::make_dirs(&self.manifests)?;
            manifest::write(tree_of(dir)?, undisturbed(|| File::create(&path))?)
        };
        write().during("write manifest", path.display())
    }

    /// Writes the `.replaced` file of `id` durably. The file records that the committed snapshot
    /// `key` had the directory of `id` before a repair. This directory may stay mounted after the
    /// repair.
    ///
    /// # Errors
    /// Errors of the file system, with the path.
    pub fn note_replaced(&self, id: u64, key: &str) -> Result<()> {
        let path = self.replaced(id);
        let write = || {
            calls::make_dirs(&self.manifests)?;
            let new = path.with_extension("new");
            undisturbed(|| std::fs::write(&new, key))?;
            undisturbed(|| File::open(&new))?.sync_all()?;
            undisturbed(|| std::fs::rename(&new, &path))?;
            undisturbed(|| File::open(&self.manifests))?.sync_all()
        };
        write().during("write", path.display())
    }

    /// Returns the key of the snapshot that had the directory of `id` before a repair, and the time
    /// of the repair. Returns `None` if the `.replaced` file of `id` is absent, or if something
    /// else is in its place.
    ///
    /// # Errors
    /// Errors of the file system, with the path.
    pub fn replaced_key(&self, id: u64) -> Result<Option<(String, SystemTime)>> {
        let path = self.replaced(id);
        let file = match open_file(&path) {
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::Corrupt) => {
                return Ok(None);
            }
            file => file.during("open", path.display())?,
        };
        let read = || {
            let key = io::read_to_string(&file)?;
            Ok((key, undisturbed(|| file.metadata())?.modified()?))
        };
        let found: io::Result<_> = read();
        found.map(Some).during("read", path.display())
    }

    fn replaced(&self, id: u64) -> PathBuf {
        self.manifests.join(replaced_name(id))
    }

    /// Returns the condition of the directory of `id`. [`Depth::Files`] and [`Depth::Bytes`] also
    /// compare the tree in the directory with its manifest, if there is a complete manifest.
    ///
    /// # Errors
    /// `Unavailable` if a directory in the tree is moved meanwhile; errors of the file system, with
    /// the path.
    pub fn check(&self, id: u64, depth: Depth) -> Result<Condition> {
        if let Some(what) = self.misplaced(id).during("open", self.path(id).display())? {
            return Ok(Condition::Damaged(what));
        }
        let tree = match tree_at(&self.path(id)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Condition::Missing),
            tree => tree.during("open", self.path(id).display())?,
        };
        let sums = match depth {
            Depth::Directory => return Ok(Condition::Sound),
            Depth::Files => None,
            Depth::Bytes { per_second } => Some(Sums::new(per_second)),
        };
        let path = self.manifest(id);
        let manifest = match open_file(&path) {
            // The manifest is missing if the snapshot is not committed, if an earlier release
            // committed it, or if a loss of power undid the write. Something else may also be in
            // its place.
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::Corrupt) => {
                return Ok(Condition::Sound);
            }
            manifest => manifest.during("open", path.display())?,
        };
        let differences =
            manifest::compare(tree, &manifest, sums).during("check", path.display())?;
        Ok(differences.map_or(Condition::Sound, Condition::Damaged))
    }

    fn manifest(&self, id: u64) -> PathBuf {
        self.manifests.join(id.to_string())
    }

    fn list(&self) -> io::Result<Vec<u64>> {
        let mut ids = Vec::new();
        let Some(dir) = &self.dir else {
            return Ok(ids);
        };
        for (name, _) in calls::list(dir)? {
            // Entries with other names do not belong to the snapshotter.
            ids.extend(name.to_str().ok().and_then(number));
        }
        Ok(ids)
    }

    /// Returns the open directory to a caller that changes it, or `Denied` if there is none.
    fn writable(&self) -> Result<&File> {
        self.dir.as_ref().ok_or_else(Error::read_only)
    }

    fn lock(&self, id: u64, operation: FlockOperation) -> Result<Option<LockedDir>> {
        let locked = self.try_lock(id, operation).map_err(directory_error);
        locked.during("lock", self.path(id).display())
    }

    fn open_dir(&self, id: u64) -> io::Result<File> {
        let dir = self.dir.as_ref().ok_or(Errno::NOENT)?;
        let opened = calls::openat(dir, &id.to_string(), DIRECTORY, Mode::empty());
        Ok(opened.map(File::from)?)
    }

    fn try_lock(&self, id: u64, operation: FlockOperation) -> io::Result<Option<LockedDir>> {
        let dir = match self.open_dir(id) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            opened => opened?,
        };
        match calls::flock(&dir, operation) {
            Err(Errno::WOULDBLOCK) => return Ok(None),
            locked => locked?,
        }
        // The directory may have been removed before it was locked.
        let exists = calls::fstat(&dir)?.st_nlink > 0;
        Ok(exists.then_some(LockedDir(dir)))
    }
}

/// Opens the tree in a snapshot's directory.
fn tree_of(dir: &LockedDir) -> io::Result<OwnedFd> {
    Ok(calls::openat(dir, TREE, DIRECTORY, Mode::empty())?)
}

fn tree_at(path: &Path) -> io::Result<OwnedFd> {
    Ok(calls::open(&path.join(TREE), DIRECTORY, Mode::empty())?)
}

/// Creates [`TREE`], the empty root of a snapshot's tree, in the new directory `dir` of the
/// snapshot.
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

/// Opens the root of the tree in a snapshot's directory.
///
/// # Errors
/// `NotFound` if the tree is missing; `Corrupt` if something else is in its place; errors of the
/// file system.
pub fn open_tree(dir: &LockedDir) -> Result<OwnedFd> {
    let opened = tree_of(dir).map_err(directory_error);
    opened.during("open directory", TREE)
}

/// Returns the error of opening a directory of a snapshot.
fn directory_error(error: io::Error) -> Error {
    match error.kind() {
        io::ErrorKind::NotADirectory => not_a_directory("not a directory").source(error),
        _ => error.into(),
    }
}

fn not_a_directory(found: &str) -> Error {
    Error::corrupt(format!(
        "the directory of a snapshot was replaced ({found}); run `cas fsck --repair`"
    ))
}

/// Returns whether the directory of `id` has a `.replaced` file. A repair writes this file before
/// it replaces the directory. A removal of the directory also removes the file. `tree` is the path
/// of the tree of any snapshot of the same snapshotter.
pub(crate) fn was_replaced(tree: &Path, id: &str) -> bool {
    let root = tree.ancestors().nth(3).filter(|_| number(id).is_some());
    root.is_some_and(|root| {
        let path = root.join(MANIFESTS).join(replaced_name(id));
        undisturbed(|| path.try_exists()).unwrap_or(false)
    })
}

/// Returns the name of the file with which a repair records that it replaces the directory of `id`.
fn replaced_name(id: impl fmt::Display) -> String {
    format!("{id}.replaced")
}

/// Returns the number in a name that [`SnapshotDirs`] has written, or `None` for another name.
fn number(name: &str) -> Option<u64> {
    let id: u64 = name.parse().ok()?;
    (id.to_string() == name).then_some(id)
}
