//! Images as directories and snapshots.

use std::path::Path;
use std::sync::Arc;

use cas_core::platform::Platforms;
use cas_core::progress::{Progress, Silent};
use cas_core::{Context, Digest, Error, Manifest, Result};
use cas_layer::unpack::jobs::{DiskJobStorage, Jobs};
use cas_layer::unpack::{self, DirectoryOptions, Entrance};

use super::arguments::ImageRef;
use super::{Cas, QueryOptions, paths};

/// Options of [`Cas::unpack_with`] and [`Cas::snapshot_with`].
#[derive(Clone)]
#[non_exhaustive]
pub struct UnpackOptions {
    /// The platform of the image. `Platforms::All` is an error.
    pub platforms: Platforms,
    /// Whether the directory that the image is unpacked into is closed to all other users. By
    /// default, the directory has the mode of the image's root directory. If other users can then
    /// reach device nodes or set-id programs, the progress receives a warning. The directories of
    /// snapshots are always closed to other users.
    pub private: bool,
    /// Whether to unpack without privileges: all files then belong to the user of this process.
    /// Their owners in the image are kept in the attribute `user.rootlesscontainers`, as in umoci.
    /// Devices, and attributes that only the superuser may set, are left out with a warning.
    /// Snapshots cannot be made in this way.
    pub rootless: bool,
    /// Receives the progress. By default, nothing is reported.
    pub progress: Arc<dyn Progress>,
}

impl Default for UnpackOptions {
    fn default() -> Self {
        UnpackOptions {
            platforms: Platforms::default(),
            private: false,
            rootless: false,
            progress: Arc::new(Silent),
        }
    }
}

impl UnpackOptions {
    /// Sets [`platforms`](Self::platforms).
    #[must_use]
    pub fn with_platforms(mut self, platforms: impl Into<Platforms>) -> Self {
        self.platforms = platforms.into();
        self
    }

    /// Sets [`private`](Self::private).
    #[must_use]
    pub fn with_private(mut self, private: bool) -> Self {
        self.private = private;
        self
    }

    /// Sets [`rootless`](Self::rootless).
    #[must_use]
    pub fn with_rootless(mut self, rootless: bool) -> Self {
        self.rootless = rootless;
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
    /// Writes the root file system of an image into `directory`, which must be absent or empty.
    ///
    /// # Errors
    /// As [`Cas::manifest`]; `NotFound` if the store does not have the configuration, if a layer is
    /// neither in the store nor kept as a tar by the snapshotter, or if the parent of `directory`
    /// does not exist; `InvalidArgument` if `directory` is not empty, is not a directory, or is in
    /// the root or the store; `Corrupt` for damaged or hostile layers, if the tar of a layer or the
    /// ready layer in its place was lost, or if the manifest and the configuration do not match;
    /// `Unsupported` for an artifact, or if the list of layers has a blob that is not a layer;
    /// `OutOfRange` if the image exceeds a limit; `Denied` if this process may not give a file to
    /// its owner; `FailedPrecondition` if the owner of a file is not mapped in this user namespace.
    /// With [`UnpackOptions::rootless`], owners are not set, so the errors about owners do not
    /// occur. After an error, the files that were written are removed.
    pub async fn unpack(
        &self,
        image: impl Into<ImageRef>,
        directory: impl AsRef<Path>,
    ) -> Result<()> {
        let options = UnpackOptions::default();
        self.unpack_with(image, directory, options).await
    }

    /// Unpacks an image into `directory` with options.
    ///
    /// # Errors
    /// As [`Cas::unpack`]; `InvalidArgument` for `Platforms::All`; `Denied` if the directory must
    /// be `private` and belongs to another user.
    pub async fn unpack_with(
        &self,
        image: impl Into<ImageRef>,
        directory: impl AsRef<Path>,
        options: UnpackOptions,
    ) -> Result<()> {
        let manifest = self.manifest_of(image, &options.platforms).await?;
        let directory = paths::directory(directory.as_ref());
        let outside = self.check_output(directory);
        outside.during("unpack", directory.display())?;
        let entrance = match options.private {
            true => Entrance::Private,
            false => Entrance::AsImage,
        };
        let how = DirectoryOptions {
            entrance,
            rootless: options.rootless,
            temporary: false,
            confine: self.confine,
        };
        let (layers, progress) = (self.layers(), &options.progress);
        unpack::to_directory(layers, &manifest, directory, how, progress).await
    }

    /// Unpacks the layers of an image into committed snapshots, whose keys are the chain IDs of the
    /// layers. Returns the key of the topmost snapshot, or `None` if the image has no layers.
    ///
    /// # Errors
    /// As [`Cas::unpack`], except the errors that concern `directory`; `FailedPrecondition` if the
    /// root was made without a snapshotter and none was chosen for this handle.
    pub async fn snapshot(&self, image: impl Into<ImageRef>) -> Result<Option<Digest>> {
        self.snapshot_with(image, UnpackOptions::default()).await
    }

    /// Unpacks an image into snapshots with options. Returns the same as [`Cas::snapshot`].
    ///
    /// # Errors
    /// As [`Cas::snapshot`]; `InvalidArgument` for `Platforms::All` or `rootless`.
    pub async fn snapshot_with(
        &self,
        image: impl Into<ImageRef>,
        options: UnpackOptions,
    ) -> Result<Option<Digest>> {
        if options.rootless {
            let why = "snapshots cannot be made with `rootless`, because their files have the \
                       owners that the image names; unpack into a directory, or run this program \
                       in `cas unshare` without `rootless`";
            return Err(Error::invalid(why).operation("unpack"));
        }
        let platforms = self.to_unpack(&options.platforms);
        let image = self.image(image).await?;
        let manifest = self.manifest_of(&image, &platforms).await?;
        let snapshot = self.to_snapshots(&manifest, &options.progress).await?;
        self.drop_blobs(&image.target, &platforms, &options.progress)
            .await?;
        Ok(snapshot)
    }

    /// Unpacks an image whose manifest is known. Returns the same as [`Cas::snapshot`].
    pub(super) async fn to_snapshots(
        &self,
        manifest: &Manifest,
        progress: &Arc<dyn Progress>,
    ) -> Result<Option<Digest>> {
        unpack::to_snapshots(self.writable()?, self.target()?, manifest, progress).await
    }

    /// Returns the manifest of an image for one platform. Records that the image is used.
    pub(super) async fn manifest_of(
        &self,
        image: impl Into<ImageRef>,
        platforms: &Platforms,
    ) -> Result<Manifest> {
        let image = self.image(image).await?;
        self.note_use(&image.name);
        let options = QueryOptions::default().with_platforms(platforms.clone());
        let resolved = self.manifest_with(image, options).await?;
        Ok(resolved.manifest)
    }

    /// Returns the platforms to use for an unpack into snapshots. If `platforms` selects the
    /// platform of this machine, and the image has several variants for it, the snapshotter may
    /// prefer one of them.
    pub(super) fn to_unpack(&self, platforms: &Platforms) -> Platforms {
        let snapshotter = self.snapshotter.as_ref();
        let features = snapshotter.map_or(&[][..], |one| one.os_features());
        platforms.clone().preferring(features)
    }

    /// Returns the unpack jobs of the root.
    pub(super) fn jobs(&self) -> Jobs {
        let place = self.locks.with_file_name("jobs");
        Jobs::new(Arc::new(DiskJobStorage::new(place)))
    }

    /// Returns what an unpack into snapshots uses: the snapshotter, the directory of the locks, and
    /// the source from which lost tables of contents are fetched again.
    pub(super) fn target(&self) -> Result<unpack::Target<'_>> {
        Ok(unpack::Target {
            snapshotter: self.snapshotter()?,
            locks: &self.locks,
            only_tars: self.only_tars,
            confine: self.confine,
            #[cfg(feature = "on-demand")]
            tables: Some(self),
            #[cfg(not(feature = "on-demand"))]
            tables: None,
        })
    }
}
