//! The directory of a run's bundle, and the removal of directories that killed runs have left.
//!
//! ```text
//! ROOT/run/             0700
//!   ID.lock             locked by the tool and the runtime it started, until both have ended
//!   ID/                 the bundle; its rootfs is a mounted snapshot, or without privileges, files
//!     runtime           the path of the runtime
//!     state/            the runtime's state of the container, while the container exists
//!     pid               written by the runtime once the container exists
//! ```
//! If the runtime is a chroot, the last three are absent.
//!
//! If a lock is free, its run has ended, and the bundle next to it can be removed.

use std::fs::DirBuilder;
use std::os::fd::AsFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use cas::backend::unique;
use cas::{Cas, Context, Error, ErrorKind, Progress, Result};
use cas_host::{Dir, Lock};

use super::super::in_namespace;
use super::{is_rootless, runtime};

const LOCK: &str = ".lock";

/// The directory and lock of one run.
pub(super) struct RunDir {
    runs: Dir,
    /// Id of the run, which is also the id of its container.
    id: String,
    bundle: PathBuf,
    lock: Lock,
}

/// Returns the prefix of the ids of runs that use the snapshotter of the handle `cas`. Only these
/// runs can be removed with this handle.
fn prefix(cas: &Cas) -> Result<String> {
    Ok(format!("cas-{}", cas.snapshotter()?.name()))
}

/// Creates and opens the directory of all runs. Returns the open directory and its path.
fn make_runs(root: &Path) -> Result<(Dir, PathBuf)> {
    let path = root.join("run");
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&path)
        .during("create directory", path.display())?;
    runs(root)
}

/// Opens the directory of all runs. Returns the open directory and its path.
fn runs(root: &Path) -> Result<(Dir, PathBuf)> {
    let path = root.join("run");
    // Runtimes require a path without symbolic links.
    let path = path.canonicalize().during("open", path.display())?;
    let dir = Dir::open(&path).during("open", path.display())?;
    Ok((dir, path))
}

impl RunDir {
    /// Reserves a name for the directory of a new run, and locks it. The directory itself is not
    /// made here.
    pub(super) fn create(cas: &Cas, root: &Path) -> Result<Self> {
        let (runs, path) = make_runs(root)?;
        let id = unique::key(&prefix(cas)?);
        let lock = Lock::exclusive(&runs, &format!("{id}{LOCK}"));
        let lock = lock.during("lock", path.display())?;
        let bundle = path.join(&id);
        Ok(RunDir {
            runs,
            id,
            bundle,
            lock,
        })
    }

    pub(super) fn id(&self) -> &str {
        &self.id
    }

    pub(super) fn bundle(&self) -> &Path {
        &self.bundle
    }

    pub(super) fn rootfs(&self) -> PathBuf {
        self.bundle.join("rootfs")
    }

    /// From now on, child processes inherit the lock, so that the run stays locked until they end.
    pub(super) fn share(&self) -> Result<()> {
        let flags = rustix::io::FdFlags::empty();
        let shared = rustix::io::fcntl_setfd(self.lock.file().as_fd(), flags);
        Ok(shared.map_err(std::io::Error::from)?)
    }

    /// Ends the container of the run, and removes the mount, the snapshot and the bundle of the
    /// run.
    ///
    /// # Errors
    /// `Busy` while the container does not end, or while something uses the mount; the mount then
    /// stays. `Denied` if files of other users cannot be removed, or without the right to unmount.
    /// Errors of the runtime and of the file system.
    pub(super) async fn remove(self, cas: &Cas) -> Result<()> {
        if self.bundle.exists() {
            runtime::end(&self).await?;
            match cas.unmount(self.rootfs()).await {
                // Without privileges, the rootfs is never mounted. Otherwise, it was not mounted
                // yet, or an earlier removal has unmounted it.
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                unmounted => unmounted?,
            }
            let removed = self.remove_bundle().await;
            removed.during("remove", self.bundle.display())?;
        }
        let removed = self.runs.remove(&format!("{}{LOCK}", self.id));
        removed.during("remove", self.bundle.display()).map(|_| ())
    }

    /// Removes the bundle, but never anything mounted in it.
    async fn remove_bundle(&self) -> Result<()> {
        let removed = cas_host::remove_all(&self.bundle, true).map_err(Error::from);
        match removed {
            // Users of the container may own files in the bundle.
            Err(error) if error.kind() == ErrorKind::Denied && is_rootless() => {
                in_namespace::remove_tree(&self.bundle).await
            }
            removed => removed,
        }
    }
}

/// Removes the directories that killed runs with the snapshotter of `cas` have left. A failure to
/// remove one is only a warning.
pub(in super::super) async fn sweep(cas: &Cas, root: &Path, progress: &dyn Progress) -> Result<()> {
    // A root without a snapshotter has no runs.
    let Ok(prefix) = prefix(cas) else {
        return Ok(());
    };
    // The directory is not created here, because there may be no space for it.
    let (dir, path) = match runs(root) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        opened => opened?,
    };
    let (prefix, mut ids) = (format!("{prefix}-"), Vec::new());
    for entry in dir.entries().during("list", path.display())? {
        let name = entry.during("list", path.display())?.name;
        let id = name.strip_suffix(LOCK);
        let ours = id.filter(|id| id.starts_with(&prefix));
        ids.extend(ours.map(str::to_owned));
    }
    for id in ids {
        let (runs, path) = runs(root)?;
        let lock = Lock::try_exclusive(&runs, &format!("{id}{LOCK}"));
        let Some(lock) = lock.during("lock", path.display())? else {
            continue;
        };
        let bundle = path.join(&id);
        let left = RunDir {
            runs,
            id,
            bundle,
            lock,
        };
        if let Err(error) = left.remove(cas).await {
            progress.warn(&format!(
                "cannot clean up after a killed run: {error}; the next `cas gc` tries again"
            ));
        }
    }
    Ok(())
}
