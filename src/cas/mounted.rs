//! A snapshot that is mounted at a directory.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use cas_core::background::{self, shield};
use cas_core::labels::GC_ROOT;
use cas_core::snapshot::{Info, Mount};
use cas_core::{Context, Digest, Error, ErrorKind, Labels, Result, Snapshotter, pool, unique};
use cas_host::mount::Rights;
use cas_host::{IdMap, MountedDirs, mount, no_directory};

/// How far a mount has come, as the label of its snapshot says. What a kill leaves of a mount that
/// is not complete is removed by a collection; a complete one stays until it is unmounted, even if
/// the machine is restarted, because it may have the only copy of what was written to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    Mounting,
    Mounted,
    Unmounting,
}

impl State {
    const fn as_str(self) -> &'static str {
        match self {
            State::Mounting => "mounting",
            State::Mounted => "mounted",
            State::Unmounting => "unmounting",
        }
    }

    /// Returns the label, which also keeps the snapshot.
    fn label(self) -> Labels {
        Labels::from([(GC_ROOT.to_owned(), unique::key(self.as_str()))])
    }

    /// Returns whether a job has begun to mount or unmount the snapshot and did not end.
    pub(super) fn is_between(info: &Info) -> bool {
        let label = info.labels.get(GC_ROOT).map(String::as_str);
        let is = |state: State| label.is_some_and(|label| label.starts_with(state.as_str()));
        is(State::Mounting) || is(State::Unmounting)
    }

    /// Writes the state of the snapshot `key`.
    ///
    /// # Errors
    /// `NotFound`; errors of the records.
    pub(super) async fn write(self, snapshotter: &dyn Snapshotter, key: &str) -> Result<()> {
        let path = format!("labels.{GC_ROOT}");
        let written = snapshotter.update(key, self.label(), &[&path]).await;
        written.map(|_| ())
    }
}

/// The snapshot of a mount. Unless it is kept, it is unmounted and removed in the background when
/// it is dropped.
pub(super) struct Mounted {
    snapshotter: Arc<dyn Snapshotter>,
    key: String,
    mounts: Vec<Mount>,
    /// Where the snapshot is mounted. `None` until it is mounted.
    directory: Option<PathBuf>,
    /// Whether nothing is left to undo.
    ended: bool,
}

impl Mounted {
    /// Makes the snapshot `key` on a parent. A label keeps it while it is mounted.
    ///
    /// # Errors
    /// `AlreadyExists`; `NotFound` for the parent, or if files of a snapshot are gone.
    pub(super) async fn make(
        snapshotter: &Arc<dyn Snapshotter>,
        key: &str,
        parent: Option<Digest>,
        writable: bool,
    ) -> Result<Self> {
        let (snapshotter, key) = (Arc::clone(snapshotter), key.to_owned());
        let parent = parent.map(|chain_id| chain_id.to_string());
        shield(async move {
            let labels = State::Mounting.label();
            let mounts = if writable {
                snapshotter.prepare(&key, parent.as_deref(), labels).await?
            } else {
                snapshotter.view(&key, parent.as_deref(), labels).await?
            };
            let mut made = Mounted {
                snapshotter,
                key,
                mounts,
                directory: None,
                ended: false,
            };
            if made.mounts.iter().any(lacks_directory) {
                made.undo().await?;
                return Err(Error::not_found(
                    "the directory of a snapshot is missing; pull or import the image again",
                )
                .operation("mount"));
            }
            Ok(made)
        })
        .await
    }

    /// Mounts the snapshot at `directory`.
    ///
    /// # Errors
    /// `NotFound` for the directory; `Denied` without the right to mount; `Unsupported` if owners
    /// cannot be mapped. The snapshot is then removed.
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
                // The error of the mount is the one that matters.
                let _ = self.undo().await;
                return Err(error);
            }
            self.directory = Some(directory);
            if let Err(error) = State::Mounted.write(&*self.snapshotter, &self.key).await {
                let _ = self.undo().await;
                return Err(error);
            }
            Ok(self)
        })
        .await
    }

    /// Leaves the snapshot mounted.
    pub(super) fn keep(mut self) {
        self.ended = true;
    }

    /// Unmounts and removes the snapshot.
    pub(super) async fn undo(&mut self) -> Result<()> {
        self.ended = true;
        undo(&*self.snapshotter, &self.key, self.directory.take()).await
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if self.ended {
            return;
        }
        let (snapshotter, key) = (Arc::clone(&self.snapshotter), std::mem::take(&mut self.key));
        let directory = self.directory.take();
        background::run(async move {
            let _ = undo(&*snapshotter, &key, directory).await;
        });
    }
}

/// Returns whether a directory that the mount shows is missing.
fn lacks_directory(mount: &Mount) -> bool {
    let shown = match mount {
        Mount::Bind { source, .. } => std::slice::from_ref(source),
        Mount::Overlay { lower, .. } => lower,
        _ => &[],
    };
    shown
        .iter()
        .any(|directory| matches!(directory.try_exists(), Ok(false)))
}

async fn undo(snapshotter: &dyn Snapshotter, key: &str, directory: Option<PathBuf>) -> Result<()> {
    match directory {
        Some(directory) => detach(snapshotter, key, directory).await,
        None => remove(snapshotter, key).await,
    }
}

/// Unmounts the snapshot `key` from `directory`, and removes it.
///
/// # Errors
/// `Busy` while it is in use: it then stays; errors of the snapshotter.
pub(super) async fn detach(
    snapshotter: &dyn Snapshotter,
    key: &str,
    directory: PathBuf,
) -> Result<()> {
    // The state matters only after a kill, and there may be no space to write it.
    let _ = State::Unmounting.write(snapshotter, key).await;
    if let Err(error) = pool::run(move || unmount(&directory)).await {
        let _ = State::Mounted.write(snapshotter, key).await;
        return Err(error);
    }
    remove(snapshotter, key).await
}

/// Unmounts a directory. Nothing is mounted there after a restart of the machine, or if another
/// process was faster.
///
/// # Errors
/// `Busy` while it is in use, also if it is mounted in another mount namespace.
fn unmount(directory: &Path) -> Result<()> {
    match mount::unmount(directory) {
        Err(error) if error.kind() == ErrorKind::FailedPrecondition => {
            if MountedDirs::read().has(directory) {
                return Err(Error::busy(
                    "it is mounted in another mount namespace, as of `cas unshare`: unmount it \
                     there, or end the programs in it",
                )
                .subject(directory.display()));
            }
            Ok(())
        }
        unmounted => unmounted,
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
pub(super) fn resolve(directory: &Path, operation: &'static str) -> Result<PathBuf> {
    let found = directory.canonicalize().and_then(|found| {
        let is_directory = found.is_dir();
        is_directory
            .then_some(found)
            .ok_or_else(|| std::io::ErrorKind::NotADirectory.into())
    });
    found
        .map_err(|error| no_directory(error, directory))
        .during(operation, directory.display())
}

/// The beginning of the key of a snapshot that is mounted.
const MOUNTED: &str = "mounted ";

/// Returns the directory at which the snapshot `key` was mounted, or `None` if it was not made for
/// a mount.
pub(super) fn directory(key: &str) -> Option<PathBuf> {
    key.strip_prefix(MOUNTED).map(PathBuf::from)
}

/// Returns the key of the snapshot that is mounted at a directory.
pub(super) fn key(directory: &Path) -> Result<String> {
    let path = directory.to_str().ok_or_else(|| {
        Error::invalid("the path is not UTF-8; choose another").subject(directory.display())
    })?;
    Ok(format!("{MOUNTED}{path}"))
}
