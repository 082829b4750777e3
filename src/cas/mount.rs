//! Images as mounted directories.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;

use cas_core::background::shield;
use cas_core::platform::Platforms;
use cas_core::progress::{Progress, Silent};
use cas_core::{Error, ErrorKind, Manifest, Result};
use cas_host::mount::Rights;
use cas_layer::unpack;

use super::Cas;
use super::arguments::ImageRef;
use super::mounted::{self, Mounted, NewSnapshot, State};

/// Options of [`Cas::mount_with`].
#[non_exhaustive]
pub struct MountOptions {
    /// Whether the mount is writable. [`Cas::unmount`] removes everything that was written to the
    /// mount.
    pub writable: bool,
    /// Whether set-user-id and set-group-id programs of the image run with the rights of their
    /// owner or group. If so, any user who can reach the directory can use these rights.
    pub suid: bool,
    /// Whether device nodes of the image can be opened. If so, any user who can reach the directory
    /// can use the devices of this machine through these nodes.
    pub devices: bool,
    /// A user namespace that maps the owners of files on disk to the owners that the mount shows.
    /// By default the mount shows the owners on disk.
    pub idmap: Option<OwnedFd>,
    /// The platform to use. `Platforms::All` is an error.
    pub platforms: Platforms,
    /// Receives the progress of an unpack. By default, nothing is reported.
    pub progress: Arc<dyn Progress>,
}

impl Default for MountOptions {
    fn default() -> Self {
        MountOptions {
            writable: false,
            suid: false,
            devices: false,
            idmap: None,
            platforms: Platforms::default(),
            progress: Arc::new(Silent),
        }
    }
}

impl MountOptions {
    /// Sets [`writable`](Self::writable).
    #[must_use]
    pub fn with_writable(mut self, writable: bool) -> Self {
        self.writable = writable;
        self
    }

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

    /// Sets [`platforms`](Self::platforms).
    #[must_use]
    pub fn with_platforms(mut self, platforms: impl Into<Platforms>) -> Self {
        self.platforms = platforms.into();
        self
    }

    /// Sets [`progress`](Self::progress).
    #[must_use]
    pub fn with_progress(mut self, progress: Arc<dyn Progress>) -> Self {
        self.progress = progress;
        self
    }
}

impl Cas {
    /// Mounts the root file system of an image at `directory`, read-only. Device nodes of the image
    /// cannot be opened, and its set-id programs run with the rights of their caller. If the image
    /// is not unpacked into snapshots yet, it is unpacked first. [`Cas::unmount`] ends the mount.
    ///
    /// # Errors
    /// As [`Cas::snapshot`]; `NotFound` if `directory` does not exist; `InvalidArgument` if
    /// `directory` is not a directory, is in the root or contains it, or its path is not UTF-8;
    /// `AlreadyExists` if this root has mounted something at `directory` and [`Cas::unmount`] was
    /// not called since, even if the machine was restarted in between; `Denied` without the right
    /// to mount; `FailedPrecondition` if the image has layers that are read on demand, and no
    /// process serves them.
    pub async fn mount(
        &self,
        image: impl Into<ImageRef>,
        directory: impl AsRef<Path>,
    ) -> Result<()> {
        let options = MountOptions::default();
        self.mount_with(image, directory, options).await
    }

    /// Mounts with options.
    ///
    /// # Errors
    /// As [`Cas::mount`]; `Unsupported` if [`MountOptions::idmap`] is set, and the kernel or the
    /// file system cannot map owners; `InvalidArgument` for `Platforms::All`.
    pub async fn mount_with(
        &self,
        image: impl Into<ImageRef>,
        directory: impl AsRef<Path>,
        options: MountOptions,
    ) -> Result<()> {
        let platforms = self.to_unpack(&options.platforms);
        let manifest = self.manifest_of(image, &platforms).await?;
        let directory = mounted::mount_point(directory.as_ref(), self.root.path())?;
        let mounted = self.mount_manifest(&manifest, &directory, options);
        mounted.await.map(Mounted::keep)
    }

    /// Mounts an image whose manifest is known.
    pub(super) async fn mount_manifest(
        &self,
        manifest: &Manifest,
        directory: &Path,
        options: MountOptions,
    ) -> Result<Mounted> {
        self.check_writable()?;
        let directory = mounted::resolve(directory, "mount on")?;
        let key = mounted::new_key(&directory)?;
        if self.snapshotter_of(&key).await?.is_some() {
            return Err(taken(&directory));
        }
        let new = NewSnapshot {
            key: &key,
            writable: options.writable,
            labels: State::Mounting.label(),
        };
        let made = self.make(manifest, &new, &options.progress).await;
        let snapshot = made.map_err(|error| match error.kind() {
            ErrorKind::AlreadyExists => taken(&directory),
            _ => error,
        })?;
        let rights = Rights {
            suid: options.suid,
            devices: options.devices,
        };
        snapshot.attach(directory, options.idmap, rights).await
    }

    /// Makes and returns a snapshot on an image. If the image is not unpacked yet, it is unpacked
    /// first. The parents of the snapshot cannot be removed while the snapshot exists, so they need
    /// no lease.
    pub(super) async fn make(
        &self,
        manifest: &Manifest,
        new: &NewSnapshot<'_>,
        progress: &Arc<dyn Progress>,
    ) -> Result<Mounted> {
        let snapshotter = self.snapshotter()?;
        let verified = unpack::verified_chain_ids(&self.store, &**snapshotter, manifest);
        if let Some(chain_ids) = verified.await? {
            let parent = chain_ids.last().copied();
            match Mounted::make(snapshotter, new, parent).await {
                // The image is not unpacked yet, or its snapshots were collected or lack files.
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                made => return made,
            }
        }
        let parent = self.to_snapshots(manifest, progress).await?;
        Mounted::make(snapshotter, new, parent).await
    }

    /// Unmounts what [`Cas::mount`] has mounted at `directory`, and removes what was written there.
    /// Another handle of this root may have mounted it, also with another snapshotter. If the
    /// future is dropped, the unmount continues in the background.
    ///
    /// # Errors
    /// `NotFound` if `directory` does not exist, or if this root has nothing mounted there;
    /// `InvalidArgument` if `directory` is not a directory, or its path is not UTF-8; `Busy` while
    /// the mount is in use, is covered by another mount, or is only in another mount namespace;
    /// `Denied` without the right to unmount.
    pub async fn unmount(&self, directory: impl AsRef<Path>) -> Result<()> {
        self.check_writable()?;
        let directory = mounted::resolve(directory.as_ref(), "unmount")?;
        let key = mounted::key(&directory)?;
        let snapshotter = self.snapshotter_of(&key).await?.ok_or_else(|| {
            Error::not_found(
                "this root has nothing mounted at this directory; check the directory (for a \
                 bundle, give DIR/rootfs), or choose another root",
            )
            .operation("unmount")
            .subject(directory.display())
        })?;
        shield(async move { mounted::detach(&*snapshotter, &key, directory).await }).await
    }
}

fn taken(directory: &Path) -> Error {
    Error::already_exists(
        "this root already has a mount at this directory, perhaps from a `cas unshare` that has \
         ended; run `cas umount DIR` first",
    )
    .operation("mount")
    .subject(directory.display())
}
