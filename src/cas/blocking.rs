//! The blocking form of [`Cas`](crate::Cas), for programs without an async runtime.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

#[cfg(feature = "registry")]
use cas_core::Descriptor;
use cas_core::blob::{BlobInfo, BlobList};
use cas_core::check::Report;
use cas_core::content::VerifiedReader;
use cas_core::gc::{
    Explanation, GcOptions, Leftover, PruneOptions, Pruned, RemoveOptions, Removed,
};
use cas_core::image::{Check, Resolved};
use cas_core::records::{Lease, Resource};
use cas_core::snapshot::{Info, Usage};
use cas_core::transfer::StoreRepository;
use cas_core::{Digest, Error, Image, Labels, Registry, Result, Snapshotter, Store};
#[cfg(feature = "registry")]
use cas_distribution::Hosts;
#[cfg(feature = "erofs")]
use cas_erofs::Disk;
use cas_layer::export::{ExportOptions, Target};
use cas_layer::import::{IngestBlob, Ingested, IngestedImage, Source};
use tokio::runtime::{Builder, Runtime};

#[cfg(feature = "erofs")]
use super::DiskOptions;
use super::{
    CopyOptions, DeleteOptions, EndedRun, FsckOptions, ImageRef, ImportOptions, IngestInfo,
    Listing, MountOptions, MountSnapshotOptions, NewName, OpenOptions, QueryOptions,
    RootDirOptions, Run, SnapshotOptions, StoredImage, UnmountOptions, UnpackOptions, UsageOptions,
};
#[cfg(feature = "registry")]
use super::{PullOptions, PushOptions, RegistryRef};
#[cfg(feature = "soci")]
use super::{SociIndex, SociOptions};
use crate::bundle::BundleOptions;
use crate::root::Engines;
#[cfg(feature = "registry")]
use crate::root::{PullModes, RemoteSettings};

/// A handle on an open root. It has all verbs of [`crate::Cas`], in a form that blocks until the
/// verb is done. The handle contains its own async runtime, and its verbs panic inside another
/// async runtime. Use [`crate::Cas`] there. The handle is cheap to clone, and all clones are the
/// same handle.
#[derive(Clone)]
pub struct Cas {
    inner: crate::Cas,
    runtime: Arc<Runtime>,
}

/// Defines each verb as a call that blocks on the verb of [`crate::Cas`].
macro_rules! verbs {
    ($($(#[$attribute:meta])* fn $verb:ident($($name:ident: $type:ty),*) -> $output:ty;)*) => {
        impl Cas {
            $(
                $(#[$attribute])*
                ///
                /// # Errors
                #[doc = concat!("As [`Cas::", stringify!($verb), "`](crate::Cas::", stringify!($verb), ").")]
                pub fn $verb(&self, $($name: $type),*) -> $output {
                    self.runtime.block_on(self.inner.$verb($($name),*))
                }
            )*
        }
    };
}

impl Cas {
    /// Makes a root with the default store and snapshotter. Returns the engines. If the preferred
    /// snapshotter does not work on this machine, also returns the reason.
    ///
    /// # Errors
    /// As [`Cas::init`](crate::Cas::init).
    pub fn init(root: impl AsRef<Path>) -> Result<(Engines, Option<Error>)> {
        crate::Cas::init(root)
    }

    /// Makes a root with these engines, which must be in `registry`. Returns the engines. If
    /// `engines` names no snapshotter and the preferred snapshotter does not work on this machine,
    /// also returns the reason.
    ///
    /// # Errors
    /// As [`Cas::init_with`](crate::Cas::init_with).
    pub fn init_with(
        root: impl AsRef<Path>,
        engines: Engines,
        registry: &Registry,
    ) -> Result<(Engines, Option<Error>)> {
        crate::Cas::init_with(root, engines, registry)
    }

    /// Opens a root. If there is none, makes one with the default store and snapshotter.
    ///
    /// # Errors
    /// As [`Cas::open`](crate::Cas::open).
    pub fn open(root: impl AsRef<Path>) -> Result<Self> {
        Self::open_with(root, OpenOptions::default())
    }

    /// Opens a root with options.
    ///
    /// # Errors
    /// As [`Cas::open_with`](crate::Cas::open_with).
    pub fn open_with(root: impl AsRef<Path>, options: OpenOptions) -> Result<Self> {
        let runtime = Arc::new(Builder::new_current_thread().enable_all().build()?);
        let inner = runtime.block_on(crate::Cas::open_with(root, options))?;
        Ok(Cas { inner, runtime })
    }

    /// Checks the store and the snapshots of a root, and repairs them if [`FsckOptions::repair`] is
    /// set. Returns what was found.
    ///
    /// # Errors
    /// As [`Cas::fsck`](crate::Cas::fsck).
    pub fn fsck(root: impl AsRef<Path>, options: FsckOptions) -> Result<Report> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(crate::Cas::fsck(root, options))
    }

    /// If a misplaced file or directory in the root may have caused `error`, returns an error that
    /// names this file or directory. Otherwise returns `error`. See
    /// [`Cas::explain_error`](crate::Cas::explain_error).
    #[must_use]
    pub fn explain_error(root: impl AsRef<Path>, error: Error) -> Error {
        crate::Cas::explain_error(root, error)
    }

    /// Closes the handle and all its clones. When the call returns, everything that was written is
    /// on the device.
    ///
    /// # Errors
    /// As [`Cas::close`](crate::Cas::close).
    pub fn close(self) -> Result<()> {
        self.runtime.block_on(self.inner.close())
    }

    /// Returns the async form of the same handle.
    pub fn inner(&self) -> &crate::Cas {
        &self.inner
    }

    /// Checks that the store is not in a read-only root.
    ///
    /// # Errors
    /// As [`Cas::check_writable`](crate::Cas::check_writable).
    pub fn check_writable(&self) -> Result<()> {
        self.inner.check_writable()
    }

    /// Returns the store, for operations that have no verb.
    pub fn store(&self) -> &Store {
        self.inner.store()
    }

    /// Returns the settings of registries in `cas.toml`.
    #[cfg(feature = "registry")]
    pub fn remote_settings(&self) -> RemoteSettings {
        self.inner.remote_settings()
    }

    /// Returns the paths of the files that configure mirrors of registries, trusted certificates
    /// and the policy for images.
    #[cfg(feature = "registry")]
    pub fn hosts(&self) -> Hosts {
        self.inner.hosts()
    }

    /// Returns a repository that stands for a name in this store. Other stores pull from the
    /// repository and push to it.
    ///
    /// # Errors
    /// As [`Cas::repository`](crate::Cas::repository).
    pub fn repository(&self, name: impl Into<NewName>) -> Result<StoreRepository> {
        self.inner.repository(name)
    }

    /// Returns the settings of parallel pulls in `cas.toml`, and a warning for each setting that
    /// has no effect, or whose value is replaced by the nearest value that is allowed.
    ///
    /// # Errors
    /// As [`Cas::pull_modes`](crate::Cas::pull_modes).
    #[cfg(feature = "registry")]
    pub fn pull_modes(&self) -> Result<(PullModes, Vec<String>)> {
        self.inner.pull_modes()
    }

    /// Returns this handle, and a handle for each other snapshotter that has files in the root.
    ///
    /// # Errors
    /// As [`Cas::with_each_snapshotter`](crate::Cas::with_each_snapshotter).
    pub fn with_each_snapshotter(&self) -> Result<Vec<Self>> {
        let handles = self.runtime.block_on(self.inner.with_each_snapshotter())?;
        let blocking = |inner| Cas {
            inner,
            runtime: Arc::clone(&self.runtime),
        };
        Ok(handles.into_iter().map(blocking).collect())
    }

    /// Returns the snapshotter.
    ///
    /// # Errors
    /// As [`Cas::snapshotter`](crate::Cas::snapshotter).
    pub fn snapshotter(&self) -> Result<&Arc<dyn Snapshotter>> {
        self.inner.snapshotter()
    }
}

verbs! {
    /// Imports all images of an archive or a directory. Returns the images, sorted by name.
    fn import(source: impl AsRef<Path>) -> Result<Vec<Image>>;

    /// Imports with options. Returns the images, sorted by name.
    fn import_with(source: Source, options: ImportOptions) -> Result<Vec<StoredImage>>;

    /// Exports images into one OCI archive. Returns the images with their targets in the archive.
    fn export(
        images: impl IntoIterator<Item = impl Into<ImageRef>>,
        file: impl AsRef<Path>
    ) -> Result<Vec<Image>>;

    /// Exports with options. Returns the images with their targets in the archive.
    fn export_with(
        images: impl IntoIterator<Item = impl Into<ImageRef>>,
        target: Target,
        options: ExportOptions
    ) -> Result<Vec<Image>>;

    /// Copies an image into the store of another handle. If the other handle is blocking, pass its
    /// [`inner`](Cas::inner). Returns the image in the other store.
    fn copy(image: impl Into<ImageRef>, to: &crate::Cas) -> Result<Image>;

    /// Copies with options. Returns the image in the other store.
    fn copy_with(
        image: impl Into<ImageRef>,
        to: &crate::Cas,
        options: CopyOptions
    ) -> Result<Image>;

    /// Pulls an image for the platform of this machine. Returns the image.
    #[cfg(feature = "registry")]
    fn pull(reference: impl Into<RegistryRef>) -> Result<Image>;

    /// Pulls with options. Returns the image, and the key of its topmost snapshot if it was
    /// unpacked.
    #[cfg(feature = "registry")]
    fn pull_with(
        reference: impl Into<RegistryRef>,
        options: PullOptions
    ) -> Result<StoredImage>;

    /// Pushes an image. Returns the descriptor that `reference` then refers to in the registry.
    #[cfg(feature = "registry")]
    fn push(
        image: impl Into<ImageRef>,
        reference: impl Into<RegistryRef>
    ) -> Result<Descriptor>;

    /// Pushes with options. Returns the same as `push`.
    #[cfg(feature = "registry")]
    fn push_with(
        image: impl Into<ImageRef>,
        reference: impl Into<RegistryRef>,
        options: PushOptions
    ) -> Result<Descriptor>;

    /// Returns all images that have a name, sorted by name.
    fn images() -> Result<Vec<Image>>;

    /// Returns the images that pass the filters, each with the name to show, sorted by stored name.
    fn listing(filters: &[&str]) -> Result<Listing>;

    /// Returns the image that the argument stands for.
    fn image(image: impl Into<ImageRef>) -> Result<Image>;

    /// Gives an image an additional name. Returns the image with the new name.
    fn tag(image: impl Into<ImageRef>, name: impl Into<NewName>) -> Result<Image>;

    /// Gives a new name to a manifest or an index in the store. Returns the image.
    fn create_image(name: impl Into<NewName>, target: &Digest) -> Result<Image>;

    /// Makes a name refer to another manifest or index in the store. Returns the image.
    fn replace_image(name: impl Into<NewName>, target: &Digest) -> Result<Image>;

    /// Removes a name.
    fn remove(image: impl Into<ImageRef>) -> Result<()>;

    /// Removes a name with options. Returns what a collection removed, or an empty result if
    /// `synchronous` is not set.
    fn remove_with(image: impl Into<ImageRef>, options: DeleteOptions) -> Result<Removed>;

    /// Returns which parts of an image are in the store, for the platform of this machine.
    fn check(image: impl Into<ImageRef>) -> Result<Check>;

    /// Returns which parts of an image are in the store, for a platform.
    fn check_with(image: impl Into<ImageRef>, options: QueryOptions) -> Result<Check>;

    /// Returns the manifest of an image for the platform of this machine.
    fn manifest(image: impl Into<ImageRef>) -> Result<Resolved>;

    /// Returns the manifest of an image for a platform.
    fn manifest_with(image: impl Into<ImageRef>, options: QueryOptions) -> Result<Resolved>;

    /// Writes the root file system of an image into a directory.
    fn unpack(image: impl Into<ImageRef>, directory: impl AsRef<Path>) -> Result<()>;

    /// Unpacks with options.
    fn unpack_with(
        image: impl Into<ImageRef>,
        directory: impl AsRef<Path>,
        options: UnpackOptions
    ) -> Result<()>;

    /// Writes the root file system of an image to a file, as one read-only EROFS image. Returns the
    /// sizes of the file and of the metadata in it.
    #[cfg(feature = "erofs")]
    fn disk(image: impl Into<ImageRef>, file: impl AsRef<Path>) -> Result<Disk>;

    /// Writes a disk with options. Returns the same as `disk`.
    #[cfg(feature = "erofs")]
    fn disk_with(
        image: impl Into<ImageRef>,
        file: impl AsRef<Path>,
        options: DiskOptions
    ) -> Result<Disk>;

    /// Makes a SOCI index for an image, with a zTOC for each large layer. The index is a referrer
    /// of the image's manifest. Returns the index.
    #[cfg(feature = "soci")]
    fn create_soci(image: impl Into<ImageRef>) -> Result<SociIndex>;

    /// Makes a SOCI index with options. Returns the index.
    #[cfg(feature = "soci")]
    fn create_soci_with(image: impl Into<ImageRef>, options: SociOptions) -> Result<SociIndex>;

    /// Converts an image into a new image whose large layers can be read on demand. Returns the new
    /// image.
    #[cfg(feature = "soci")]
    fn convert_soci(image: impl Into<ImageRef>, name: impl Into<NewName>) -> Result<Image>;

    /// Converts an image with options. Returns the same as `convert_soci`.
    #[cfg(feature = "soci")]
    fn convert_soci_with(
        image: impl Into<ImageRef>,
        name: impl Into<NewName>,
        options: SociOptions
    ) -> Result<Image>;

    /// Returns the SOCI indexes in the store that are referrers of an image's manifests.
    #[cfg(feature = "soci")]
    fn soci_indexes(image: impl Into<ImageRef>) -> Result<Vec<SociIndex>>;

    /// Unpacks the layers of an image into snapshots. Returns the key of the topmost snapshot, or
    /// `None` if the image has no layers.
    fn snapshot(image: impl Into<ImageRef>) -> Result<Option<Digest>>;

    /// Unpacks into snapshots with options. Returns the same as `snapshot`.
    fn snapshot_with(
        image: impl Into<ImageRef>,
        options: UnpackOptions
    ) -> Result<Option<Digest>>;

    /// Mounts the root file system of an image, read-only.
    fn mount(image: impl Into<ImageRef>, directory: impl AsRef<Path>) -> Result<()>;

    /// Mounts with options.
    fn mount_with(
        image: impl Into<ImageRef>,
        directory: impl AsRef<Path>,
        options: MountOptions
    ) -> Result<()>;

    /// Unmounts the image at a directory, and removes what was written to the mount.
    fn unmount(directory: impl AsRef<Path>) -> Result<()>;

    /// Makes a writable snapshot on an image.
    fn create_snapshot(key: impl AsRef<str>, image: impl Into<ImageRef>) -> Result<()>;

    /// Makes a snapshot with options.
    fn create_snapshot_with(
        key: impl AsRef<str>,
        image: impl Into<ImageRef>,
        options: SnapshotOptions
    ) -> Result<()>;

    /// Returns all snapshots in the order of their keys.
    fn snapshots() -> Result<Vec<Info>>;

    /// Returns the space that a snapshot takes, without its parents.
    fn snapshot_usage(key: impl AsRef<str>) -> Result<Usage>;

    /// Returns the space that a snapshot takes, with options.
    fn snapshot_usage_with(key: impl AsRef<str>, options: UsageOptions) -> Result<Usage>;

    /// Removes a snapshot. Returns false if it does not exist.
    fn remove_snapshot(key: impl AsRef<str>) -> Result<bool>;

    /// Mounts a snapshot at a directory.
    fn mount_snapshot(key: impl AsRef<str>, directory: impl AsRef<Path>) -> Result<()>;

    /// Mounts a snapshot with options.
    fn mount_snapshot_with(
        key: impl AsRef<str>,
        directory: impl AsRef<Path>,
        options: MountSnapshotOptions
    ) -> Result<()>;

    /// Unmounts a snapshot, and keeps it. Returns false if it is not mounted.
    fn unmount_snapshot(key: impl AsRef<str>) -> Result<bool>;

    /// Unmounts a snapshot with options. Returns the same as `unmount_snapshot`.
    fn unmount_snapshot_with(key: impl AsRef<str>, options: UnmountOptions) -> Result<bool>;

    /// Prepares the root directory of a container, with an image mounted in it.
    fn prepare_root_dir(path: impl AsRef<Path>, image: impl Into<ImageRef>) -> Result<()>;

    /// Prepares the root directory of a container with options.
    fn prepare_root_dir_with(
        path: impl AsRef<Path>,
        image: impl Into<ImageRef>,
        options: RootDirOptions
    ) -> Result<()>;

    /// Unmounts the root directory of a container. Returns false if it is not mounted.
    fn unmount_root_dir(path: impl AsRef<Path>) -> Result<bool>;

    /// Unmounts the root directory of a container with options. Returns the same as
    /// `unmount_root_dir`.
    fn unmount_root_dir_with(path: impl AsRef<Path>, options: UnmountOptions) -> Result<bool>;

    /// Removes the root directory of a container. Returns false if there was nothing to remove.
    fn remove_root_dir(path: impl AsRef<Path>) -> Result<bool>;

    /// Makes an OCI runtime bundle of an image.
    fn bundle(image: impl Into<ImageRef>, directory: impl AsRef<Path>) -> Result<()>;

    /// Makes a bundle with options.
    fn bundle_with(
        image: impl Into<ImageRef>,
        directory: impl AsRef<Path>,
        options: BundleOptions
    ) -> Result<()>;

    /// Runs a garbage collection: removes what no name, lease or label refers to. Returns what was
    /// removed.
    fn gc() -> Result<Removed>;

    /// Runs a collection with options. Returns what was removed, or for a dry run what would be
    /// removed.
    fn gc_with(options: GcOptions) -> Result<Removed>;

    /// Returns everything that killed jobs have left in the root and that no running job uses.
    fn leftovers() -> Result<Vec<Leftover>>;

    /// Reserves and locks a place for a new run. Makes no bundle. Returns the place.
    fn begin_run() -> Result<Run>;

    /// Returns the runs with the snapshotter of this handle that have ended and whose files are
    /// still there.
    fn ended_runs() -> Result<Vec<EndedRun>>;

    /// Returns all blobs of the store, joined with their records.
    fn blobs() -> Result<BlobList>;

    /// Returns the digest and the size of a blob, and its media type, labels and times.
    fn blob_info(blob: &Digest) -> Result<BlobInfo>;

    /// Returns whether a blob is in the store.
    fn blob_exists(blob: &Digest) -> Result<bool>;

    /// Returns the digests that a manifest or an index lists, and an empty list for any other blob.
    fn blob_children(blob: &Digest) -> Result<Vec<Digest>>;

    /// Returns a reader that streams a blob and verifies it.
    fn read_blob(blob: &Digest) -> Result<VerifiedReader>;

    /// Replaces those labels of a blob that the field paths select, or all labels if there are no
    /// field paths. Returns the updated blob.
    fn update_blob(update: &BlobInfo, fieldpaths: &[&str]) -> Result<BlobInfo>;

    /// Stores blobs in order, and stops at the first failure. Returns the outcome of each blob, and
    /// the error if a blob failed.
    fn ingest_blobs(blobs: &[IngestBlob]) -> Result<Ingested>;

    /// Stores the blobs of an image, and gives the image a new name. Returns the image, and the
    /// outcome of each blob.
    fn ingest_image(
        name: impl Into<NewName>,
        root: &IngestBlob,
        blobs: &[IngestBlob]
    ) -> Result<IngestedImage>;

    /// Removes the names of images that have not been used for a long time, until the bounds of the
    /// options are met. Then runs a collection. Returns what was removed, or for a dry run what
    /// would be removed.
    fn prune(options: PruneOptions) -> Result<Pruned>;

    /// Removes the given blobs, if nothing refers to them except other blobs of this call. Returns
    /// what was removed.
    fn remove_blobs(blobs: impl IntoIterator<Item = Digest>) -> Result<Removed>;

    /// Removes blobs with options. Returns what was removed.
    fn remove_blobs_with(
        blobs: impl IntoIterator<Item = Digest>,
        options: RemoveOptions
    ) -> Result<Removed>;

    /// Changes labels of a blob. Returns all labels that the blob has afterwards.
    fn label_blob(
        blob: &Digest,
        changes: &BTreeMap<String, Option<String>>
    ) -> Result<Labels>;

    /// Returns the unfinished ingests.
    fn ingests() -> Result<Vec<IngestInfo>>;

    /// Removes an unfinished ingest.
    fn discard_ingest(key: impl AsRef<str>) -> Result<()>;

    /// Returns why a resource is kept.
    fn explain(resource: &Resource) -> Result<Explanation>;

    /// Adds a resource to a lease. Returns the lease.
    fn add_to_lease(lease: impl AsRef<str>, resource: Resource) -> Result<Lease>;
}
