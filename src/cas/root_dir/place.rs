//! The path of a root directory, and checks and removals of what is in the directory.

use std::ffi::OsStr;
use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use cas_core::snapshot::{Info, SnapshotKind};
use cas_core::{Context, Error, ErrorKind, Result, Snapshotter, pool};
use cas_host::calls::undisturbed;
use cas_host::mount::UnmountMode;
use cas_host::{DirLock, MountedDirs, no_directory};

use super::super::dir_lock::lock;
use super::super::mounted::{self, State};
use super::super::snapshots;
use super::PREPARE;

/// The name of the directory that the snapshot is mounted on.
pub(super) const ROOTFS: &str = "rootfs";
/// The name of the file with the configuration of the image.
pub(super) const CONFIG: &str = "image-config.json";
/// The name of the file with the name of the image.
pub(super) const NAME: &str = "image-name";

/// A root directory, whether it exists or not.
#[derive(Clone)]
pub(in crate::cas) struct RootDir {
    /// The absolute path of the directory.
    path: PathBuf,
    /// The key of the snapshot, which is the last component of the path.
    key: String,
}

impl RootDir {
    /// Returns the root directory at a path. Links in the path to its parent are resolved if the
    /// parent exists, so all paths to one directory become the same path.
    ///
    /// # Errors
    /// `InvalidArgument` if the path does not end in a name, is not UTF-8, or leads to a link or
    /// something else that is not a directory; errors of the file system.
    pub(super) fn of(path: &Path, operation: &'static str) -> Result<Self> {
        Self::resolve(path).during(operation, path.display())
    }

    fn resolve(path: &Path) -> Result<Self> {
        let (Some(name), Some(parent)) = (path.file_name(), path.parent()) else {
            let why = "the path does not end in a name, which the snapshot needs as its key; give \
                       the path of the directory itself";
            return Err(Error::invalid(why));
        };
        let parent = match parent {
            parent if parent.as_os_str().is_empty() => Path::new("."),
            parent => parent,
        };
        let parent = match undisturbed(|| parent.canonicalize()) {
            // The parent is absent, but the snapshot of a root directory that was in it may still
            // exist.
            Err(error) if error.kind() == io::ErrorKind::NotFound => std::path::absolute(parent)?,
            found => found.map_err(|error| no_directory(error, parent))?,
        };
        let place = RootDir {
            path: parent.join(name),
            key: mounted::utf8(Path::new(name))?.to_owned(),
        };
        mounted::utf8(&place.path)?;
        match undisturbed(|| place.path.symlink_metadata()) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(place),
            Err(error) => Err(no_directory(error, &place.path)),
            Ok(found) if found.is_dir() => Ok(place),
            Ok(found) if found.is_symlink() => Err(Error::invalid(
                "the path is a symbolic link; give the path of the directory itself",
            )),
            Ok(_) => Err(Error::invalid(
                "the path exists and is not a directory; choose another path",
            )),
        }
    }

    /// Returns the root directory that contains the directory `rootfs`, or `None` if the path does
    /// not end in the name `rootfs`.
    pub(in crate::cas) fn with_rootfs(rootfs: &Path) -> Option<Self> {
        let path = rootfs.parent()?;
        let place = RootDir {
            path: path.to_owned(),
            key: path.file_name()?.to_str()?.to_owned(),
        };
        (rootfs.file_name() == Some(OsStr::new(ROOTFS))).then_some(place)
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn key(&self) -> &str {
        &self.key
    }

    pub(super) fn rootfs(&self) -> PathBuf {
        self.path.join(ROOTFS)
    }

    /// Creates the directory if it is absent, and waits until no other job works on it. Returns its
    /// lock, and whether it was created.
    ///
    /// # Errors
    /// `NotFound` if its parent does not exist; errors of the file system.
    pub(super) async fn begin(&self) -> Result<(DirLock, bool)> {
        loop {
            let make = || DirBuilder::new().mode(0o700).create(&self.path);
            let created = match undisturbed(make) {
                Ok(()) => true,
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => false,
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    let why = "the parent directory does not exist; create it first";
                    return Err(Error::not_found(why).source(error))
                        .during(PREPARE, self.path.display());
                }
                Err(error) => {
                    let error = no_directory(error, &self.path);
                    return Err(error).during(PREPARE, self.path.display());
                }
            };
            // The directory is absent if another job has removed it just now.
            if let Some(locked) = lock(&self.path).await? {
                return Ok((locked, created));
            }
        }
    }

    /// Unmounts everything that is mounted on `rootfs`. Returns false if nothing is. `snapshot` is
    /// the snapshot of the directory. If its labels state that its mount here has ended, a copy of
    /// the mount in another mount namespace is not an error.
    ///
    /// # Errors
    /// `Busy` while the mount is in use, or if it is only in another mount namespace; `Denied`
    /// without the right to unmount.
    pub(super) fn unmount(&self, snapshot: Option<&Info>, mode: UnmountMode) -> Result<bool> {
        let rootfs = self.rootfs();
        let unmount = || mounted::unmount_here(&rootfs, mode).map_err(advise);
        if !unmount()? {
            let has_ended = |info: &Info| self.is_last(info) && !State::may_be_mounted(info);
            if !snapshot.is_some_and(has_ended) {
                mounted::check_elsewhere(&rootfs)?;
            }
            return Ok(false);
        }
        while unmount()? {}
        Ok(true)
    }

    /// Checks that the snapshot, if there is one, and everything in the directory may be removed.
    ///
    /// # Errors
    /// `AlreadyExists` if the snapshot belongs to something else; `InvalidArgument` if the
    /// directory is not certainly a root directory, and has files that a root directory does not
    /// have; errors of the file system.
    pub(super) fn check(&self, snapshot: Option<&Info>) -> Result<()> {
        if let Some(info) = snapshot {
            self.check_snapshot(info)?;
        }
        match self.foreign(snapshot)? {
            None => Ok(()),
            Some(name) => Err(Error::invalid(format!(
                "the directory is not a root directory, because it contains {name:?}; choose \
                 another path, or empty the directory"
            ))),
        }
    }

    /// Checks that nothing is mounted on `rootfs`, unless this is certainly a root directory.
    ///
    /// # Errors
    /// `FailedPrecondition` if something is mounted there.
    pub(super) fn check_mount(&self, snapshot: Option<&Info>) -> Result<()> {
        if self.is_recognized(snapshot) || !MountedDirs::read_own().has(&self.rootfs()) {
            return Ok(());
        }
        Err(Error::precondition(format!(
            "the directory is not a root directory, because it does not have the files {CONFIG} \
             and {NAME}; unmount {ROOTFS} in it with `cas umount` or `umount`"
        )))
    }

    /// Returns whether a snapshot was last mounted in this directory.
    pub(super) fn is_last(&self, info: &Info) -> bool {
        mounted::last_directory(info) == Some(self.rootfs())
    }

    /// Returns whether the labels of a snapshot show that a job on this directory did not end.
    fn is_noted(&self, info: &Info) -> bool {
        State::is_between(info) && self.is_last(info)
    }

    /// Checks that a snapshot with the key of this directory belongs to this directory, or to
    /// nothing that exists.
    ///
    /// # Errors
    /// `AlreadyExists` if it belongs to something else.
    fn check_snapshot(&self, info: &Info) -> Result<()> {
        if info.kind == SnapshotKind::Committed || State::of(info).is_none() {
            let why = "another job has made a snapshot with the name of this directory; remove the \
                       snapshot, or choose another name";
            return Err(Error::already_exists(why));
        }
        let elsewhere = mounted::last_directory(info).filter(|last| *last != self.rootfs());
        let exists = |path: &PathBuf| undisturbed(|| path.metadata()).is_ok();
        let is_used = |last: &PathBuf| {
            RootDir::with_rootfs(last).is_some_and(|other| other.key == self.key && exists(last))
        };
        let used = elsewhere.filter(|last| is_used(last) || mounted::mounted_at(info).is_some());
        match used {
            None => Ok(()),
            Some(last) => Err(Error::already_exists(format!(
                "the snapshot with the name of this directory belongs to {}; unmount the snapshot \
                 at that path, remove the root directory that contains that path, or choose \
                 another name",
                last.display()
            ))),
        }
    }

    /// Returns whether this is certainly a root directory: it has both files of a root directory,
    /// or a job on it did not end.
    fn is_recognized(&self, snapshot: Option<&Info>) -> bool {
        let has_file = |name| {
            let path = self.path.join(name);
            undisturbed(|| path.metadata()).is_ok_and(|found| found.is_file())
        };
        snapshot.is_some_and(|info| self.is_noted(info)) || (has_file(CONFIG) && has_file(NAME))
    }

    /// Returns the name of an entry that no root directory has, or `None` if this directory may be
    /// a root directory. A root directory that is recognized may have any entries.
    fn foreign(&self, snapshot: Option<&Info>) -> Result<Option<String>> {
        if self.is_recognized(snapshot) {
            return Ok(None);
        }
        let entries = undisturbed(|| fs::read_dir(&self.path));
        for entry in entries.during("list", self.path.display())? {
            let entry = entry.during("list", self.path.display())?;
            let name = entry.file_name();
            let is_known = match name.to_str() {
                Some(CONFIG | NAME) => {
                    undisturbed(|| entry.file_type()).is_ok_and(|kind| kind.is_file())
                }
                Some(ROOTFS) => is_empty_directory(&entry.path()),
                _ => false,
            };
            if !is_known {
                return Ok(Some(name.to_string_lossy().into_owned()));
            }
        }
        Ok(None)
    }

    /// Unmounts `rootfs`, and removes everything in the directory, and the snapshot. The caller has
    /// checked that this may be done.
    ///
    /// # Errors
    /// As [`Self::unmount`], and `Busy` if something else is mounted in the directory: nothing is
    /// then removed; errors of the records and of the file system.
    pub(super) async fn clear(
        &self,
        snapshotter: &dyn Snapshotter,
        snapshot: Option<&Info>,
        locked: &DirLock,
    ) -> Result<()> {
        let (key, rootfs) = (&self.key, self.rootfs());
        let mounted = MountedDirs::read_own();
        let mut others = mounted.places_below(&self.path);
        if let Some(other) = others.find(|place| !place.starts_with(&rootfs)) {
            return Err(Error::busy(format!(
                "something else is mounted in the directory, at {}; unmount it first",
                other.display()
            )));
        }
        if snapshot.is_some() {
            // The state matters only after a kill, and there may be no space to write it.
            let _ = State::Unmounting.write_at(snapshotter, key, &rootfs).await;
        }
        let (place, seen) = (self.clone(), snapshot.cloned());
        let unmounted = pool::run(move || place.unmount(seen.as_ref(), UnmountMode::default()));
        if let Err(error) = unmounted.await {
            if snapshot.is_some() {
                let _ = State::Mounted.write_at(snapshotter, key, &rootfs).await;
            }
            return Err(error);
        }
        empty(locked).await?;
        if snapshot.is_some() {
            snapshots::remove(snapshotter, key, Some(&rootfs), None).await?;
        }
        Ok(())
    }

    /// Removes the directory and everything in it. Nothing must be mounted in it.
    ///
    /// # Errors
    /// `Busy` if something is mounted at the directory itself: everything in it is then removed,
    /// but the directory itself stays. Errors of the file system.
    pub(super) async fn remove_directory(&self, locked: &DirLock) -> Result<()> {
        empty(locked).await?;
        match undisturbed(|| fs::remove_dir(&self.path)) {
            Err(error) if error.kind() == io::ErrorKind::ResourceBusy => {
                let why = "something is mounted at the directory itself; unmount it first";
                Err(Error::busy(why).source(error))
            }
            removed => removed.during("remove directory", self.path.display()),
        }
    }

    /// Removes a directory that exists and is locked, and its snapshot. Returns true.
    ///
    /// # Errors
    /// `InvalidArgument` as [`Self::check`]; as [`Self::clear`] and [`Self::remove_directory`].
    /// A snapshot that belongs to something else stays, and is not an error.
    pub(super) async fn remove(
        &self,
        snapshotter: &dyn Snapshotter,
        locked: DirLock,
    ) -> Result<bool> {
        let found = snapshotter.stat(&self.key).await?;
        let snapshot = found.filter(|info| self.check_snapshot(info).is_ok());
        self.check(snapshot.as_ref())?;
        self.clear(snapshotter, snapshot.as_ref(), &locked).await?;
        self.remove_directory(&locked).await?;
        Ok(true)
    }

    /// Removes the snapshot of a directory that does not exist. Returns false if no snapshot was
    /// `seen`, if it belongs to something else, or if it has changed since.
    pub(super) async fn remove_snapshot(
        &self,
        snapshotter: &dyn Snapshotter,
        seen: Option<Info>,
    ) -> Result<bool> {
        match seen.filter(|info| self.check_snapshot(info).is_ok()) {
            Some(info) => snapshotter.remove_seen(&info).await,
            None => Ok(false),
        }
    }

    /// Removes the directory after its job was killed. Nothing must be mounted in it. Returns false
    /// if another job works on it now, or has worked on it since its snapshot was seen. Leaves what
    /// cannot be removed to the next job, and returns true.
    ///
    /// # Errors
    /// Errors of the records.
    pub(in crate::cas) async fn remove_abandoned(
        &self,
        snapshotter: &dyn Snapshotter,
        seen: &Info,
    ) -> Result<bool> {
        let locked = match DirLock::try_new(&self.path) {
            Ok(Some(locked)) => locked,
            Ok(None) => return Ok(undisturbed(|| self.path.symlink_metadata()).is_err()),
            Err(_) => return Ok(true),
        };
        if snapshotter.stat(&seen.key).await?.as_ref() != Some(seen) {
            return Ok(false);
        }
        if empty(&locked).await.is_ok() {
            let _ = undisturbed(|| fs::remove_dir(&self.path));
        }
        Ok(true)
    }
}

/// Removes everything in a root directory. Nothing must be mounted in it.
async fn empty(locked: &DirLock) -> Result<()> {
    let directory = locked.file().try_clone()?;
    pool::run(move || cas_host::clear(&directory)).await
}

fn is_empty_directory(path: &Path) -> bool {
    let found = undisturbed(|| path.symlink_metadata());
    found.is_ok_and(|found| found.is_dir())
        && undisturbed(|| fs::read_dir(path)).is_ok_and(|mut entries| entries.next().is_none())
}

/// Returns the error. If its kind is `Busy`, the message also names the option to detach the root
/// directory.
fn advise(error: Error) -> Error {
    if error.kind() != ErrorKind::Busy {
        return error;
    }
    let why = format!("{error}; or detach the mount with `cas rootfs unmount --lazy`");
    Error::busy(why).source(error)
}
