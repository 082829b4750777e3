//! A snapshot that is mounted at a directory.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use cas_core::background::{self, shield};
use cas_core::labels::{GC_ROOT, MOUNTED_AT};
use cas_core::snapshot::{Info, Mount};
use cas_core::{
    Context, Digest, Error, ErrorKind, Labels, Result, Snapshotter, limit, pool, unique,
};
use cas_host::calls::undisturbed;
use cas_host::mount::{Rights, UnmountMode};
use cas_host::{IdMap, MountedDirs, mount, no_directory};

use super::paths;

/// The state of a mount, which a label of its snapshot records. If a job is killed while it mounts
/// or unmounts, a later collection removes the snapshot, unless it finds the snapshot mounted. No
/// collection removes the snapshot of a complete mount, even if the machine is restarted, because
/// this snapshot may have the only copy of what was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// The snapshot is not mounted: it was made for a caller, or its mount has ended.
    Kept,
    Mounting,
    Mounted,
    Unmounting,
}

impl State {
    const fn as_str(self) -> &'static str {
        match self {
            State::Kept => "kept",
            State::Mounting => "mounting",
            State::Mounted => "mounted",
            State::Unmounting => "unmounting",
        }
    }

    /// Returns the label of this state, which also protects the snapshot from collections.
    pub(super) fn label(self) -> Labels {
        Labels::from([(GC_ROOT.to_owned(), unique::key(self.as_str()))])
    }

    /// Returns the label of this state, and the label with the directory at which the snapshot is
    /// mounted.
    ///
    /// # Errors
    /// `InvalidArgument` for a path that is not UTF-8.
    pub(super) fn label_at(self, directory: &Path) -> Result<Labels> {
        let mut labels = self.label();
        labels.insert(MOUNTED_AT.to_owned(), utf8(directory)?.to_owned());
        Ok(labels)
    }

    /// Returns the state of a snapshot, or `None` if its labels state none, as for a layer.
    pub(super) fn of(info: &Info) -> Option<Self> {
        let label = info.labels.get(GC_ROOT)?;
        let (state, _) = label.split_once('-')?;
        let all = [
            State::Kept,
            State::Mounting,
            State::Mounted,
            State::Unmounting,
        ];
        all.into_iter().find(|one| one.as_str() == state)
    }

    /// Returns whether the snapshot may still be mounted where it was mounted last.
    pub(super) fn may_be_mounted(info: &Info) -> bool {
        State::of(info) != Some(State::Kept)
    }

    /// Returns whether a job has begun to mount or unmount the snapshot and has not finished.
    pub(super) fn is_between(info: &Info) -> bool {
        matches!(State::of(info), Some(State::Mounting | State::Unmounting))
    }

    /// Writes the state of the snapshot `key`.
    ///
    /// # Errors
    /// `NotFound` if the snapshot does not exist; errors of the records.
    pub(super) async fn write(self, snapshotter: &dyn Snapshotter, key: &str) -> Result<()> {
        let path = format!("labels.{GC_ROOT}");
        let written = snapshotter.update(key, self.label(), &[&path]).await;
        written.map(|_| ())
    }

    /// Writes the state of the snapshot `key`, and where it is mounted.
    ///
    /// # Errors
    /// As [`State::write`] and [`State::label_at`].
    pub(super) async fn write_at(
        self,
        snapshotter: &dyn Snapshotter,
        key: &str,
        directory: &Path,
    ) -> Result<()> {
        let paths = [GC_ROOT, MOUNTED_AT].map(|label| format!("labels.{label}"));
        let paths = [&*paths[0], &*paths[1]];
        let written = snapshotter
            .update(key, self.label_at(directory)?, &paths)
            .await;
        written.map(|_| ())
    }
}

/// A snapshot to make.
pub(super) struct NewSnapshot<'a> {
    pub(super) key: &'a str,
    pub(super) writable: bool,
    /// The labels of the snapshot. If the label of a [`State`] is one of them, collections keep the
    /// snapshot. Otherwise, a collection may remove the snapshot after a day, which is enough for a
    /// short job.
    pub(super) labels: Labels,
}

/// A snapshot that is mounted, or made to be mounted. If this value is dropped before
/// [`Self::keep`] is called, the snapshot is unmounted in the background, and removed if
/// [`Self::make`] made it.
pub(super) struct Mounted {
    snapshotter: Arc<dyn Snapshotter>,
    key: String,
    mounts: Vec<Mount>,
    /// Where the snapshot is mounted. `None` until it is mounted.
    directory: Option<PathBuf>,
    /// Whether [`Self::make`] made the snapshot.
    made: bool,
    /// Whether nothing is left to undo.
    ended: bool,
}

impl Mounted {
    /// Makes a snapshot on a parent.
    ///
    /// # Errors
    /// `AlreadyExists` if there is a snapshot with this key; `NotFound` if the parent does not
    /// exist; errors of [`check_directories`] and of the snapshotter.
    pub(super) async fn make(
        snapshotter: &Arc<dyn Snapshotter>,
        new: &NewSnapshot<'_>,
        parent: Option<Digest>,
    ) -> Result<Self> {
        let (snapshotter, key) = (Arc::clone(snapshotter), new.key.to_owned());
        let (writable, labels) = (new.writable, new.labels.clone());
        let parent = parent.map(|chain_id| chain_id.to_string());
        shield(async move {
            let mounts = if writable {
                snapshotter.prepare(&key, parent.as_deref(), labels).await?
            } else {
                snapshotter.view(&key, parent.as_deref(), labels).await?
            };
            let mut made = Mounted::existing(snapshotter, key, mounts);
            made.made = true;
            if let Err(error) = check_directories(&made.mounts) {
                made.undo().await?;
                return Err(error);
            }
            Ok(made)
        })
        .await
    }

    /// Returns a snapshot that exists, with its mounts.
    pub(super) fn existing(
        snapshotter: Arc<dyn Snapshotter>,
        key: String,
        mounts: Vec<Mount>,
    ) -> Self {
        Mounted {
            snapshotter,
            key,
            mounts,
            directory: None,
            made: false,
            ended: false,
        }
    }

    /// Returns the mounts that show the snapshot. Returns none after the snapshot is mounted.
    #[cfg(feature = "erofs")]
    pub(super) fn mounts(&self) -> &[Mount] {
        &self.mounts
    }

    /// Mounts the snapshot at `directory`.
    ///
    /// # Errors
    /// As [`mount::attach`], for example `Denied` without the right to mount; errors of the
    /// records. On an error, the snapshot is removed if [`Self::make`] made it.
    pub(super) async fn attach(
        mut self,
        directory: PathBuf,
        idmap: Option<OwnedFd>,
        rights: Rights,
    ) -> Result<Self> {
        shield(async move {
            let (mounts, target) = (std::mem::take(&mut self.mounts), directory.clone());
            let attached = pool::run(move || {
                let idmap = idmap.as_ref().map(|namespace| IdMap::of(namespace.as_fd()));
                mount::attach(&mounts, &target, idmap, rights)
            })
            .await;
            if let Err(error) = attached {
                // The error of the mount is reported, even if the snapshot cannot be removed.
                let _ = self.undo().await;
                return Err(error);
            }
            self.directory = Some(directory);
            if !self.made {
                return Ok(self);
            }
            if let Err(error) = State::Mounted.write(&*self.snapshotter, &self.key).await {
                let _ = self.undo().await;
                return Err(error);
            }
            Ok(self)
        })
        .await
    }

    /// Keeps the snapshot and its mount when this value is dropped.
    pub(super) fn keep(mut self) {
        self.ended = true;
    }

    /// Unmounts the snapshot, and removes it if [`Self::make`] made it.
    pub(super) async fn undo(&mut self) -> Result<()> {
        self.ended = true;
        let directory = self.directory.take();
        undo(&*self.snapshotter, &self.key, directory, self.made).await
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if self.ended {
            return;
        }
        let (snapshotter, key) = (Arc::clone(&self.snapshotter), std::mem::take(&mut self.key));
        let (directory, made) = (self.directory.take(), self.made);
        background::run(async move {
            let _ = undo(&*snapshotter, &key, directory, made).await;
        });
    }
}

/// Checks `mounts`: every directory and every image that they show must exist.
///
/// # Errors
/// `NotFound` if one of them does not exist; `FailedPrecondition` if no process serves the layers
/// that are read on demand.
pub(super) fn check_directories(mounts: &[Mount]) -> Result<()> {
    #[cfg(feature = "erofs")]
    mounts.iter().try_for_each(check_served)?;
    if mounts.iter().any(|mount| lacks_files(mount, mounts)) {
        return Err(Error::not_found(
            "files of the snapshot or of a layer below it are missing; run `cas fsck --repair`, or \
             pull or import the image again",
        )
        .operation("mount"));
    }
    Ok(())
}

/// Checks that a process serves the data files that the mount shows, if it shows such files.
#[cfg(feature = "erofs")]
fn check_served(mount: &Mount) -> Result<()> {
    let Mount::Erofs { devices, .. } = mount else {
        return Ok(());
    };
    let mut dirs = devices.iter().filter_map(|device| device.parent());
    match dirs.find(|dir| dir.ends_with(snapshot_erofs::SERVED)) {
        Some(served) => snapshot_erofs::check_served(served),
        None => Ok(()),
    }
}

/// Returns whether a file that the mount shows is missing. A directory on which another of `mounts`
/// will be mounted does not count as missing.
fn lacks_files(mount: &Mount, mounts: &[Mount]) -> bool {
    let is_shared = |path: &Path| {
        let shows = |one: &Mount| matches!(one, Mount::Erofs { shared, .. } if shared == path);
        mounts.iter().any(shows)
    };
    let is_absent =
        |path: &PathBuf| matches!(undisturbed(|| path.try_exists()), Ok(false)) && !is_shared(path);
    match mount {
        Mount::Bind { source, .. } => is_absent(source),
        Mount::Overlay { lower, .. } => lower.iter().any(is_absent),
        Mount::Erofs { image, devices, .. } => std::iter::once(image).chain(devices).any(is_absent),
        _ => false,
    }
}

async fn undo(
    snapshotter: &dyn Snapshotter,
    key: &str,
    directory: Option<PathBuf>,
    made: bool,
) -> Result<()> {
    match directory {
        Some(directory) if made => detach(snapshotter, key, directory).await,
        Some(directory) => {
            let unmounted = pool::run(move || unmount(&directory, UnmountMode::default())).await;
            unmounted.map(|_| ())
        }
        None if made => remove(snapshotter, key).await,
        None => Ok(()),
    }
}

/// Unmounts the snapshot `key` from `directory`, if it is mounted there, and removes the snapshot.
///
/// # Errors
/// As [`unmount_only`], and the mount and the snapshot stay; errors of the snapshotter.
pub(super) async fn detach(
    snapshotter: &dyn Snapshotter,
    key: &str,
    directory: PathBuf,
) -> Result<()> {
    let mounts = mounts(snapshotter, key).await?;
    // An error is ignored: the state matters only after a kill, and the disk may be too full to
    // write it.
    let _ = State::Unmounting.write(snapshotter, key).await;
    let unmounted = pool::run(move || unmount_only(&directory, &mounts, UnmountMode::default()));
    if let Err(error) = unmounted.await {
        let _ = State::Mounted.write(snapshotter, key).await;
        return Err(error);
    }
    remove(snapshotter, key).await
}

/// Unmounts a directory. Returns false if nothing is mounted there, for example after a restart of
/// the machine, or if another process was faster.
///
/// # Errors
/// As [`unmount_here`]; `Busy` if the mount is only in another mount namespace.
pub(super) fn unmount(directory: &Path, mode: UnmountMode) -> Result<bool> {
    let unmounted = unmount_here(directory, mode)?;
    if !unmounted {
        check_elsewhere(directory)?;
    }
    Ok(unmounted)
}

/// Unmounts a directory in the mount namespace of this process. Returns false if nothing is mounted
/// there, or if the mount is locked because it comes from a namespace with more rights. Another
/// namespace may keep a copy of a mount that has ended here.
///
/// # Errors
/// `Busy` while the mount is in use; `Denied` without the right to unmount.
pub(super) fn unmount_here(directory: &Path, mode: UnmountMode) -> Result<bool> {
    match mount::unmount(directory, mode) {
        Err(error)
            if matches!(
                error.kind(),
                ErrorKind::FailedPrecondition | ErrorKind::NotFound
            ) =>
        {
            Ok(false)
        }
        unmounted => unmounted.map(|()| true),
    }
}

/// Checks that nothing is mounted at a directory in any mount namespace that can be read.
///
/// # Errors
/// `Busy`.
pub(super) fn check_elsewhere(directory: &Path) -> Result<()> {
    match MountedDirs::read().has(directory) {
        true => Err(elsewhere(directory)),
        false => Ok(()),
    }
}

fn elsewhere(directory: &Path) -> Error {
    Error::busy(
        "the mount is in another mount namespace, perhaps that of a `cas unshare`; unmount it in \
         that namespace, or end the programs there",
    )
    .subject(directory.display())
}

/// Returns the mounts of the snapshot `key`, for a caller that unmounts or removes the snapshot.
/// Returns an empty list if the snapshot does not exist, if its files are missing or damaged, or if
/// the disk is too full to make these files again. The snapshot then cannot be compared with the
/// mount table.
///
/// # Errors
/// `FailedPrecondition` if the snapshot is committed; other errors of the snapshotter.
pub(super) async fn mounts(snapshotter: &dyn Snapshotter, key: &str) -> Result<Vec<Mount>> {
    use ErrorKind::{Corrupt, Full, NotFound};
    match snapshotter.mounts(key).await {
        Err(error) if matches!(error.kind(), NotFound | Corrupt | Full) => Ok(Vec::new()),
        mounts => mounts,
    }
}

/// Returns whether a snapshot with these `mounts`, which [`mounts`] has returned, seems to be
/// mounted at a directory. If `mounts` is empty, anything that is mounted there counts.
pub(super) fn is_at(there: &MountedDirs, directory: &Path, mounts: &[Mount]) -> bool {
    match mounts.is_empty() {
        true => there.has(directory),
        false => there.shows(directory, mounts),
    }
}

/// Unmounts a snapshot with these `mounts` from a directory. Returns false if the snapshot is not
/// mounted there, even if something else is: a user may have unmounted the snapshot, and mounted
/// something else at the directory. If `mounts` is empty, unmounts whatever is mounted at the
/// directory.
///
/// # Errors
/// As [`unmount`]; `Busy` if another mount covers the mount of the snapshot.
pub(super) fn unmount_only(directory: &Path, mounts: &[Mount], mode: UnmountMode) -> Result<bool> {
    let own = MountedDirs::read_own();
    if mounts.is_empty() || !own.is_foreign(directory, mounts) {
        return unmount(directory, mode);
    }
    if own.shows(directory, mounts) {
        let why = "another mount covers the mount of the snapshot; unmount that other mount first";
        return Err(Error::busy(why).subject(directory.display()));
    }
    match MountedDirs::read().shows(directory, mounts) {
        true => Err(elsewhere(directory)),
        false => Ok(false),
    }
}

/// Removes a snapshot that a collection may remove at the same moment.
async fn remove(snapshotter: &dyn Snapshotter, key: &str) -> Result<()> {
    match snapshotter.remove(key).await {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}

/// Returns the absolute path of a directory, without symbolic links.
///
/// # Errors
/// `NotFound` if the directory does not exist; `InvalidArgument` if the path, or a part of it, is
/// not a directory; errors of the file system.
pub(super) fn resolve(directory: &Path, operation: &'static str) -> Result<PathBuf> {
    let directory = paths::directory(directory);
    let found = undisturbed(|| directory.canonicalize()).and_then(|found| {
        let is_directory = undisturbed(|| found.metadata())?.is_dir();
        is_directory
            .then_some(found)
            .ok_or_else(|| std::io::ErrorKind::NotADirectory.into())
    });
    found
        .map_err(|error| no_directory(error, directory))
        .during(operation, directory.display())
}

/// Returns the absolute path, without symbolic links, of a directory to mount at.
///
/// # Errors
/// As [`resolve`]; `InvalidArgument` if the directory is or contains the directory `root` of a
/// root, or is in it: a mount there would hide files of the root from all later commands.
pub(super) fn mount_point(directory: &Path, root: &Path) -> Result<PathBuf> {
    let found = resolve(directory, "mount on")?;
    let root = undisturbed(|| root.canonicalize()).during("open root", root.display())?;
    if found.starts_with(&root) || root.starts_with(&found) {
        let why = format!(
            "a mount there would hide files of the root {}; choose a directory outside of it",
            root.display()
        );
        return Err(Error::invalid(why)).during("mount on", directory.display());
    }
    Ok(found)
}

/// The beginning of a key that names the directory at which its snapshot is mounted. `Cas::mount`
/// and bundles use such keys. Root directories and snapshots of callers do not.
const MOUNTED: &str = "mounted ";

/// Returns the directory that the key of a snapshot names, or `None` if the key names none.
pub(super) fn directory(key: &str) -> Option<PathBuf> {
    key.strip_prefix(MOUNTED).map(PathBuf::from)
}

/// Returns the directory at which a snapshot was last mounted or was to be mounted, or `None` if
/// there is none.
pub(super) fn last_directory(info: &Info) -> Option<PathBuf> {
    let noted = || info.labels.get(MOUNTED_AT).map(PathBuf::from);
    directory(&info.key).or_else(noted)
}

/// Returns the directory at which a snapshot seems to be mounted, in any mount namespace, or `None`
/// if it is not mounted. Anything that is mounted at the last directory of the snapshot counts,
/// unless the label states that its mount has ended.
pub(super) fn mounted_at(info: &Info) -> Option<PathBuf> {
    let last = last_directory(info).filter(|_| State::may_be_mounted(info));
    last.filter(|directory| MountedDirs::read().has(directory))
}

/// Returns the key that names a directory.
///
/// # Errors
/// As [`utf8`].
pub(super) fn key(directory: &Path) -> Result<String> {
    Ok(format!("{MOUNTED}{}", utf8(directory)?))
}

/// Returns the key of a new snapshot that will be mounted at a directory.
///
/// # Errors
/// As [`utf8`]; `InvalidArgument` if the path contains a control character or is too long.
pub(super) fn new_key(directory: &Path) -> Result<String> {
    let key = key(directory)?;
    let why = if key.len() > limit::KEY {
        format!(
            "the path has {} bytes, and at most {} are allowed; choose a shorter path",
            key.len() - MOUNTED.len(),
            limit::KEY - MOUNTED.len()
        )
    } else if key.contains(char::is_control) {
        "the path contains a control character; choose another directory".to_owned()
    } else {
        return Ok(key);
    };
    Err(Error::invalid(why)).during("mount on", directory.display())
}

/// Returns a path as text.
///
/// # Errors
/// `InvalidArgument` if it is not UTF-8.
pub(super) fn utf8(path: &Path) -> Result<&str> {
    path.to_str().ok_or_else(|| {
        Error::invalid("the path is not UTF-8; choose another path").subject(path.display())
    })
}
