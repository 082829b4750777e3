//! Mounting existing snapshots, and unmounting them without removing them.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;

use cas_core::background::shield;
use cas_core::{Context, Error, Result, pool};
use cas_host::MountedDirs;
use cas_host::mount::{self, Rights, UnmountMode};

use super::Cas;
use super::mounted::{self, Mounted, State};
use super::snapshots::{find, lock_files};

/// Options of [`Cas::mount_snapshot_with`].
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct MountSnapshotOptions {
    /// Whether set-user-id and set-group-id programs in the snapshot run with the rights of their
    /// owner or group. If so, any user who can reach the directory can use these rights.
    pub suid: bool,
    /// Whether device nodes in the snapshot can be opened. If so, any user who can reach the
    /// directory can use the devices of this machine through these nodes.
    pub devices: bool,
    /// A user namespace that maps the owners of files on disk to the owners that the mount shows.
    /// By default the mount shows the owners on disk.
    pub idmap: Option<OwnedFd>,
}

impl MountSnapshotOptions {
    /// Sets [`suid`](Self::suid).
    #[must_use]
    pub fn with_suid(mut self, suid: bool) -> Self {
        self.suid = suid;
        self
    }

    /// Sets [`devices`](Self::devices).
    #[must_use]
    pub fn with_devices(mut self, devices: bool) -> Self {
        self.devices = devices;
        self
    }

    /// Sets [`idmap`](Self::idmap).
    #[must_use]
    pub fn with_idmap(mut self, idmap: impl Into<Option<OwnedFd>>) -> Self {
        self.idmap = idmap.into();
        self
    }
}

/// Options of [`Cas::unmount_snapshot_with`] and [`Cas::unmount_root_dir_with`].
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub struct UnmountOptions {
    /// Whether pending requests to a file system that does not answer are aborted (`MNT_FORCE`).
    /// Files that are in use still make the mount busy.
    pub force: bool,
    /// Whether a mount that is in use is detached (`MNT_DETACH`): it disappears from its directory
    /// at once, and ends when nothing uses it any more.
    pub lazy: bool,
}

impl UnmountOptions {
    /// Sets [`force`](Self::force).
    #[must_use]
    pub fn with_force(mut self, force: bool) -> Self {
        self.force = force;
        self
    }

    /// Sets [`lazy`](Self::lazy).
    #[must_use]
    pub fn with_lazy(mut self, lazy: bool) -> Self {
        self.lazy = lazy;
        self
    }

    pub(super) fn mode(self) -> UnmountMode {
        UnmountMode {
            force: self.force,
            lazy: self.lazy,
        }
    }
}

impl Cas {
    /// Mounts an active snapshot or a view at `directory`. The mount of an active snapshot is
    /// writable. Device nodes in the snapshot cannot be opened, and set-id programs run with the
    /// rights of their caller. [`Cas::unmount_snapshot`] unmounts the snapshot. What was written
    /// stays in the snapshot.
    ///
    /// # Errors
    /// `NotFound` if the snapshot, its files or the directory does not exist; `AlreadyExists` if
    /// the snapshot is mounted; `InvalidArgument` if `directory` is not a directory, is in the root
    /// or contains it, or its path is not UTF-8; `FailedPrecondition` for a committed snapshot, or
    /// if the snapshot has layers that are read on demand and no process serves them; `Denied`
    /// without the right to mount. If `umount` or a restart of the machine has unmounted the
    /// snapshot, and something else is mounted at the directory of its last mount, the snapshot
    /// still counts as mounted.
    pub async fn mount_snapshot(
        &self,
        key: impl AsRef<str>,
        directory: impl AsRef<Path>,
    ) -> Result<()> {
        let options = MountSnapshotOptions::default();
        self.mount_snapshot_with(key, directory, options).await
    }

    /// Mounts a snapshot with options.
    ///
    /// # Errors
    /// As [`Cas::mount_snapshot`]; `Unsupported` if [`MountSnapshotOptions::idmap`] is set, and the
    /// kernel or the file system cannot map owners.
    pub async fn mount_snapshot_with(
        &self,
        key: impl AsRef<str>,
        directory: impl AsRef<Path>,
        options: MountSnapshotOptions,
    ) -> Result<()> {
        self.check_writable()?;
        let key = key.as_ref().to_owned();
        let directory = mounted::mount_point(directory.as_ref(), self.root.path())?;
        let snapshotter = Arc::clone(self.snapshotter()?);
        let mounts = snapshotter.mounts(&key).await?;
        mounted::check_directories(&mounts)?;
        let lock = lock_files(&mounts).await?;
        let mounted = shield(async move {
            let _lock = lock;
            let info = find(&*snapshotter, &key).await?;
            if let Some(there) = mounted::mounted_at(&info) {
                let why = format!(
                    "the snapshot is mounted at {}; unmount it first",
                    there.display()
                );
                return Err(Error::already_exists(why)).during("mount snapshot", &key);
            }
            // If a kill follows, the label names a directory at which the snapshot is not mounted.
            // The snapshot then counts as unmounted.
            let noted = State::Mounted.write_at(&*snapshotter, &key, &directory);
            noted.await?;
            let rights = Rights {
                suid: options.suid,
                devices: options.devices,
            };
            let snapshot = Mounted::existing(snapshotter, key, mounts);
            snapshot.attach(directory, options.idmap, rights).await
        });
        mounted.await.map(Mounted::keep)
    }

    /// Unmounts a snapshot that [`Cas::mount_snapshot`] or another method has mounted, and keeps
    /// the snapshot. Returns false if the snapshot is not mounted.
    ///
    /// # Errors
    /// `NotFound` if the snapshot does not exist; `Busy` while the mount is in use, is covered by
    /// another mount, or is only in another mount namespace; `Denied` without the right to unmount.
    pub async fn unmount_snapshot(&self, key: impl AsRef<str>) -> Result<bool> {
        let options = UnmountOptions::default();
        self.unmount_snapshot_with(key, options).await
    }

    /// Unmounts a snapshot with options. Returns the same as [`Cas::unmount_snapshot`].
    ///
    /// # Errors
    /// As [`Cas::unmount_snapshot`], but a lazy unmount also succeeds while the mount is in use.
    pub async fn unmount_snapshot_with(
        &self,
        key: impl AsRef<str>,
        options: UnmountOptions,
    ) -> Result<bool> {
        self.check_writable()?;
        let (snapshotter, key) = (Arc::clone(self.snapshotter()?), key.as_ref().to_owned());
        if mounted::last_directory(&find(&*snapshotter, &key).await?).is_none() {
            return Ok(false);
        }
        let mounts = mounted::mounts(&*snapshotter, &key).await?;
        let lock = lock_files(&mounts).await?;
        shield(async move {
            let _lock = lock;
            let info = find(&*snapshotter, &key).await?;
            let last = mounted::last_directory(&info).filter(|_| State::may_be_mounted(&info));
            let Some(directory) = last else {
                return Ok(false);
            };
            let (place, mode, own) = (directory.clone(), options.mode(), mounts.clone());
            let unmount = move || {
                let unmounted = mounted::unmount_only(&place, &own, mode)?;
                mount::release(&own);
                Ok(unmounted)
            };
            let unmounted = pool::run(unmount).await?;
            let is_by_path = mounted::directory(&key).is_some();
            // If the mount was unmounted here, other namespaces can only have copies of it, which
            // do not count.
            let there = if unmounted {
                MountedDirs::read_own()
            } else {
                MountedDirs::read()
            };
            if !is_by_path && !mounted::is_at(&there, &directory, &mounts) {
                // Otherwise a later mount at this directory would count as a mount of this
                // snapshot.
                let _ = State::Kept.write(&*snapshotter, &key).await;
            }
            Ok(unmounted)
        })
        .await
    }
}
