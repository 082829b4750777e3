//! The bundle of a run, and the removal of bundles that killed runs have left.
//!
//! ```text
//! ROOT/run/ID/   the bundle
//!   rootfs/      a mounted snapshot; if the user has no privileges, the unpacked files
//!   runtime      the path of the runtime
//!   state/       the runtime's state of the container, while the container exists
//!   pid          written by the runtime once the container exists
//! ```
//! If the runtime is a chroot, `runtime`, `state/` and `pid` are absent. The library places and
//! locks the bundle ([`cas::Run`]).

use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use cas::gc::Removed;
use cas::{Cas, Context, EndedRun, Error, ErrorKind, Progress, Result, Run};
use cas_host::MountedDirs;
use cas_host::calls::undisturbed;
use cas_host::mount::{UnmountMode, unmount};

use super::super::in_namespace;
use super::{is_rootless, runtime};

/// The directory of one run. The run is locked while this value exists.
pub(super) struct RunDir(Run);

impl RunDir {
    /// Reserves a place for the bundle of a new run. The bundle itself is not made here.
    pub(super) async fn create(cas: &Cas) -> Result<Self> {
        Ok(RunDir(cas.begin_run().await?))
    }

    pub(super) fn id(&self) -> &str {
        self.0.id()
    }

    pub(super) fn bundle(&self) -> &Path {
        self.0.bundle()
    }

    pub(super) fn rootfs(&self) -> PathBuf {
        self.bundle().join("rootfs")
    }

    /// From now on, child processes inherit the lock, so that the run stays locked until they end.
    pub(super) fn share(&self) -> Result<()> {
        let flags = rustix::io::FdFlags::empty();
        let shared = rustix::io::fcntl_setfd(self.0.lock().as_fd(), flags);
        Ok(shared.map_err(std::io::Error::from)?)
    }

    /// Ends the container of the run, and removes the mount, the snapshot and the bundle of the
    /// run.
    ///
    /// # Errors
    /// `Busy` if the container does not end, or if something uses the mount, which then stays;
    /// `Denied` if files of other users cannot be removed, or if this process may not unmount;
    /// errors of the runtime and of the file system.
    pub(super) async fn remove(self, cas: &Cas) -> Result<()> {
        let exists = undisturbed(|| self.bundle().try_exists());
        if exists.during("open", self.bundle().display())? {
            runtime::end(&self).await?;
            match cas.unmount(self.rootfs()).await {
                // Without privileges, the rootfs is never mounted. Otherwise, it was not mounted
                // yet, or an earlier removal has unmounted it.
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                unmounted => unmounted?,
            }
            let removed = self.remove_bundle().await;
            removed.during("remove", self.bundle().display())?;
        }
        self.0.end()
    }

    /// Removes the bundle, but never anything mounted in it.
    async fn remove_bundle(&self) -> Result<()> {
        self.unmount_state()?;
        let removed = cas_host::remove_all(self.bundle(), true).map_err(Error::from);
        match removed {
            // Users of the container may own files in the bundle.
            Err(error) if error.kind() == ErrorKind::Denied && is_rootless() => {
                in_namespace::remove_tree(self.bundle()).await
            }
            removed => removed,
        }
    }

    /// Unmounts what the runtime has left mounted in the directory of its state. While runc starts
    /// a container, it mounts its own program there.
    fn unmount_state(&self) -> Result<()> {
        // The mount table has paths without symbolic links.
        let Ok(state) = self.bundle().join("state").canonicalize() else {
            return Ok(());
        };
        let mounted = MountedDirs::read_own();
        for place in mounted.places_below(&state) {
            unmount(&place, UnmountMode::default())?;
        }
        Ok(())
    }
}

/// Removes the directories and snapshots that killed runs have left. A failure to clean up after
/// one run is only a warning. A dry run removes nothing. Returns what was removed, or for a dry run
/// what would be removed.
pub(in super::super) async fn sweep(
    cas: &Cas,
    dry_run: bool,
    progress: &dyn Progress,
) -> Result<Removed> {
    let mut removed = Removed::default();
    for cas in cas.with_each_snapshotter().await? {
        for mut run in cas.ended_runs().await? {
            let (leftover, snapshot) = (run.leftover(), run.snapshot.take());
            match remove(run, &cas, dry_run).await {
                Ok(true) => {
                    removed.leftovers.push(leftover);
                    removed.snapshots.extend(snapshot);
                }
                Ok(false) => {}
                Err(error) => progress.warn(&format!(
                    "cannot clean up after a killed run: {error}; the next `cas gc` tries again"
                )),
            }
        }
    }
    Ok(removed)
}

/// Removes the directory and the snapshot of a run that has ended. Returns false if another process
/// removes them or has removed them. A dry run removes nothing, and returns true.
async fn remove(run: EndedRun, cas: &Cas, dry_run: bool) -> Result<bool> {
    if dry_run {
        return Ok(true);
    }
    match run.lock()? {
        Some(run) => RunDir(run).remove(cas).await.map(|()| true),
        None => Ok(false),
    }
}
