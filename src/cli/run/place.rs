//! Where a run has its bundle, and what a killed run has left.
//!
//! ```text
//! ROOT/run/             0700
//!   ID.lock             locked by the tool and by the runtime it started, whoever lives longer
//!   ID/                 the bundle; its rootfs is a mounted snapshot
//!     runtime           the path of the runtime
//!     state/            what the runtime knows of the container, while there is one
//! ```
//! A lock that can be had belongs to nobody any more, and the bundle beside it is removed.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use cas::layer::progress::Progress;
use cas::{Cas, Context, ErrorKind, Result, unique};
use cas_host::{Dir, Lock};

use super::runtime;

const LOCK: &str = ".lock";

/// The place of one run.
pub(super) struct Place {
    runs: Dir,
    /// Of the container, too.
    id: String,
    bundle: PathBuf,
    lock: Lock,
}

/// How the runs begin that have snapshots of the snapshotter of `cas`; it knows no others.
fn prefix(cas: &Cas) -> Result<String> {
    Ok(format!("cas-{}", cas.snapshotter()?.name()))
}

/// The directory of all runs.
fn runs(root: &Path) -> Result<(Dir, PathBuf)> {
    let path = root.join("run");
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&path)
        .during("make directory", path.display())?;
    // Runtimes want the path without links.
    let path = path.canonicalize().during("open", path.display())?;
    let dir = Dir::open(&path).during("open", path.display())?;
    Ok((dir, path))
}

impl Place {
    /// Makes the place of a new run.
    pub(super) fn make(cas: &Cas, root: &Path) -> Result<Self> {
        let (runs, path) = runs(root)?;
        let id = unique::key(&prefix(cas)?);
        let lock = Lock::exclusive(&runs, &format!("{id}{LOCK}"));
        let lock = lock.during("lock", path.display())?;
        let bundle = path.join(&id);
        Ok(Place {
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

    /// Lets what is started from now on hold the place together with the tool.
    pub(super) fn share(&self) -> Result<()> {
        let flags = rustix::io::FdFlags::empty();
        let shared = rustix::io::fcntl_setfd(self.lock.file().as_fd(), flags);
        Ok(shared.map_err(std::io::Error::from)?)
    }

    /// Removes the bundle, its mount and its snapshot, and ends what runs in it.
    ///
    /// # Errors
    /// `Busy` while something uses it, which is then left.
    pub(super) async fn clear(self, cas: &Cas) -> Result<()> {
        if self.bundle.exists() {
            runtime::end(&self).await?;
            match cas.unmount(&self.rootfs()).await {
                // It was not made yet, or the last clearing came as far as here.
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                unmounted => unmounted?,
            }
            self.remove().during("remove", self.bundle.display())?;
        }
        let removed = self.runs.remove(format!("{}{LOCK}", self.id));
        removed.during("remove", self.bundle.display()).map(|_| ())
    }

    /// Removes the bundle, but never what is mounted in it.
    fn remove(&self) -> io::Result<()> {
        match fs::remove_dir(self.rootfs()) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            removed => removed?,
        }
        fs::remove_dir_all(&self.bundle)
    }
}

/// Removes what runs have left that were killed.
pub(in super::super) async fn sweep(cas: &Cas, root: &Path, progress: &dyn Progress) -> Result<()> {
    // A root without a snapshotter has no runs.
    let Ok(prefix) = prefix(cas) else {
        return Ok(());
    };
    let (dir, path) = runs(root)?;
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
        let place = Place {
            runs,
            id,
            bundle,
            lock,
        };
        if let Err(error) = place.clear(cas).await {
            progress.warn(&format!("what a killed run has left stays: {error}"));
        }
    }
    Ok(())
}
