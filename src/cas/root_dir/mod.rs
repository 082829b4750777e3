//! Root directories of containers. A program that manages volumes prepares such a directory, and a
//! runtime starts the container in it.
//!
//! ```text
//! PATH/                 0700; its name is the key of the snapshot
//!   rootfs/             0700; the snapshot is mounted on it, writable
//!   image-config.json   0600; the configuration of the image, byte for byte
//!   image-name          0600; the full name of the image
//! ```
//! A job (a preparation, an unmount or a removal) keeps PATH locked while it changes anything in
//! PATH. The snapshot has a label with the path of `rootfs`, and a label with the state of the
//! mount (mounting, mounted, unmounting or ended). If a job is killed while it mounts the snapshot
//! or removes the root directory, a later garbage collection removes the snapshot and the
//! directory, unless something is mounted on `rootfs`. If a job is killed before it has made the
//! snapshot, or after it has removed the snapshot, an empty directory stays. A complete root
//! directory stays, even if the machine is restarted, until it is removed or prepared again.

mod place;
mod prepared;

use std::path::Path;
use std::sync::Arc;

use cas_core::background::shield;
use cas_core::platform::Platforms;
use cas_core::progress::{Progress, Silent};
use cas_core::{Context, Manifest, Result, dispatch, pool};
use cas_host::mount;
use cas_layer::unpack;

pub(super) use self::place::RootDir;
use self::prepared::{Documents, Prepared, Request};
use super::arguments::ImageRef;
use super::dir_lock::lock;
use super::mounted::State;
use super::{Cas, UnmountOptions, lookup};

/// What verbs of root directories do, for messages.
const PREPARE: &str = "prepare root directory";
const UNMOUNT: &str = "unmount root directory";
const REMOVE: &str = "remove root directory";

/// Options of [`Cas::prepare_root_dir_with`].
#[derive(Clone)]
#[non_exhaustive]
pub struct RootDirOptions {
    /// The platform to use. `Platforms::All` is an error.
    pub platforms: Platforms,
    /// Receives the progress of an unpack. By default, nothing is reported.
    pub progress: Arc<dyn Progress>,
}

impl Default for RootDirOptions {
    fn default() -> Self {
        RootDirOptions {
            platforms: Platforms::default(),
            progress: Arc::new(Silent),
        }
    }
}

impl RootDirOptions {
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
    /// Prepares the root directory of a container at `path`. A writable snapshot of the image is
    /// mounted on `rootfs` in this directory. The file `image-config.json` is the configuration of
    /// the image, and the file `image-name` contains the full name of the image. The last component
    /// of `path` is the key of the snapshot. If the image is not unpacked yet, it is unpacked
    /// first.
    ///
    /// The directory is closed to other users, because the set-id programs and device nodes of the
    /// image work in the mount. An earlier root directory at `path`, even an incomplete one, is
    /// unmounted and removed first, with all files in it, including those that others have put
    /// there. Its snapshot is removed, too, even if a handle with another snapshotter made the
    /// snapshot. A snapshot that [`Cas::create_snapshot`] made under the same key is removed, too,
    /// if it is not mounted.
    ///
    /// # Errors
    /// As [`Cas::snapshot`]; `Denied` without the right to mount; `NotFound` if the parent of
    /// `path` does not exist; `InvalidArgument` if `path` is a link or a file, does not end in a
    /// name, is not UTF-8, or is in the root or the store, or if the directory has files and is not
    /// a root directory; `AlreadyExists` if another root directory, mount or job uses a snapshot
    /// with this key; `Busy` while the earlier root directory is in use or is mounted only in
    /// another mount namespace, or if something else is mounted in it. After these errors,
    /// everything at `path` stays. Other errors may occur after the earlier root directory was
    /// removed. Nothing is then left at `path`. Examples are `InvalidArgument` if the last
    /// component of `path` cannot be the key of a snapshot, and `FailedPrecondition` if the image
    /// has layers that are read on demand, and no process serves them.
    pub async fn prepare_root_dir(
        &self,
        path: impl AsRef<Path>,
        image: impl Into<ImageRef>,
    ) -> Result<()> {
        self.prepare_root_dir_with(path, image, RootDirOptions::default())
            .await
    }

    /// Prepares the root directory of a container with options.
    ///
    /// # Errors
    /// As [`Cas::prepare_root_dir`]; `InvalidArgument` for `Platforms::All`.
    pub async fn prepare_root_dir_with(
        &self,
        path: impl AsRef<Path>,
        image: impl Into<ImageRef>,
        options: RootDirOptions,
    ) -> Result<()> {
        self.check_writable()?;
        let place = RootDir::of(path.as_ref(), PREPARE)?;
        let outside = self.check_output(place.path());
        outside.during(PREPARE, place.path().display())?;
        mount::check_right()?;
        let image = self.image(image).await?;
        let platforms = self.to_unpack(&options.platforms);
        let manifest = self.manifest_of(&image, &platforms).await?;
        let config = dispatch::read(&*self.store.content, &manifest.config).await?;
        // If the image cannot be unpacked, what is at the path stays.
        self.ensure_unpacked(&manifest, &options.progress).await?;
        let snapshotter = Arc::clone(self.snapshotter()?);
        let (locked, created) = place.begin().await?;
        let request = Request {
            snapshotter,
            place,
            created,
            manifest,
            documents: Documents {
                config: config.to_vec(),
                name: lookup::full_name(&image).to_string(),
            },
            progress: options.progress,
        };
        let cas = self.clone();
        shield(async move { Prepared::make(&cas, request, locked).await })
            .await
            .map(Prepared::keep)
    }

    /// Unmounts the root directory of a container, and keeps the directory and what was written to
    /// it. Returns false if nothing is mounted on `rootfs`, or if the directory does not exist.
    /// [`Cas::mount_snapshot_with`] mounts the snapshot again. The options `suid` and `devices`
    /// give the new mount the rights that the old mount had.
    ///
    /// # Errors
    /// `Busy` while the mount is in use, or if it is only in another mount namespace;
    /// `FailedPrecondition` if the directory is not a root directory and something is mounted on
    /// `rootfs` in it; `InvalidArgument` as for [`Cas::prepare_root_dir`]; `Denied` without the
    /// right to unmount.
    pub async fn unmount_root_dir(&self, path: impl AsRef<Path>) -> Result<bool> {
        self.unmount_root_dir_with(path, UnmountOptions::default())
            .await
    }

    /// Unmounts the root directory of a container with options. Returns the same as
    /// [`Cas::unmount_root_dir`].
    ///
    /// # Errors
    /// As [`Cas::unmount_root_dir`], but a lazy unmount also succeeds while the mount is in use.
    pub async fn unmount_root_dir_with(
        &self,
        path: impl AsRef<Path>,
        options: UnmountOptions,
    ) -> Result<bool> {
        self.opened()?;
        let place = RootDir::of(path.as_ref(), UNMOUNT)?;
        let Some(locked) = lock(place.path()).await? else {
            return Ok(false);
        };
        let snapshotter = match &self.snapshotter {
            Some(own) => {
                let found = self.snapshotter_of(place.key()).await?;
                Some(found.unwrap_or_else(|| Arc::clone(own)))
            }
            None => None,
        };
        shield(async move {
            let _locked = locked;
            let key = place.key().to_owned();
            let snapshot = match &snapshotter {
                Some(snapshotter) => snapshotter.stat(&key).await?,
                None => None,
            };
            let is_last = snapshot.as_ref().is_some_and(|info| place.is_last(info));
            let unmount = move || {
                let checked = place.check_mount(snapshot.as_ref());
                checked.during(UNMOUNT, place.path().display())?;
                place.unmount(snapshot.as_ref(), options.mode())
            };
            let unmounted = pool::run(unmount).await?;
            if let Some(snapshotter) = snapshotter
                && let Ok(mounts) = snapshotter.mounts(&key).await
            {
                if unmounted && is_last {
                    // Without this state, a copy of the mount in another namespace would count as
                    // the mount.
                    let _ = State::Kept.write(&*snapshotter, &key).await;
                }
                let release = move || {
                    mount::release(&mounts);
                    Ok(())
                };
                pool::run(release).await?;
            }
            Ok(unmounted)
        })
        .await
    }

    /// Unmounts the root directory of a container, and removes its files, its snapshot and the
    /// directory itself. The last component of `path` is the key of the snapshot. A snapshot that
    /// [`Cas::create_snapshot`] made under this key is removed, too, if it is not mounted. Returns
    /// false if there was nothing to remove. Files of other mounts in the directory are never
    /// removed.
    ///
    /// # Errors
    /// `Busy` while the mount is in use or is only in another mount namespace, or if something else
    /// is mounted in the directory; nothing is removed in these cases. `Busy` if something is
    /// mounted at the directory itself: the snapshot and everything in the directory are then
    /// removed, but the directory itself stays. `InvalidArgument` if the directory is not a root
    /// directory, or if `path` cannot be the path of one; `Denied` without the right to unmount.
    pub async fn remove_root_dir(&self, path: impl AsRef<Path>) -> Result<bool> {
        self.check_writable()?;
        let place = RootDir::of(path.as_ref(), REMOVE)?;
        let own = self.snapshotter()?;
        let found = self.snapshotter_of(place.key()).await?;
        let snapshotter = found.unwrap_or_else(|| Arc::clone(own));
        let seen = snapshotter.stat(place.key()).await?;
        let locked = lock(place.path()).await?;
        shield(async move {
            let removed = match locked {
                Some(locked) => place.remove(&*snapshotter, locked).await,
                // The directory is absent. If a job begins to prepare it now, the job changes the
                // snapshot. A snapshot that has changed since it was `seen` stays.
                None => place.remove_snapshot(&*snapshotter, seen).await,
            };
            removed.during(REMOVE, place.path().display())
        })
        .await
    }

    /// Unpacks an image unless its topmost snapshot exists.
    async fn ensure_unpacked(
        &self,
        manifest: &Manifest,
        progress: &Arc<dyn Progress>,
    ) -> Result<()> {
        let snapshotter = self.snapshotter()?;
        let verified = unpack::verified_chain_ids(&self.store, &**snapshotter, manifest);
        if let Some(chain_ids) = verified.await? {
            let Some(top) = chain_ids.last() else {
                return Ok(());
            };
            if snapshotter.stat(&top.to_string()).await?.is_some() {
                return Ok(());
            }
        }
        self.to_snapshots(manifest, progress).await.map(|_| ())
    }
}
