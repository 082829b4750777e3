//! Snapshots: directory trees that are built layer by layer, with the methods and states of
//! containerd's snapshots.
//!
//! An active snapshot is writable. Committing it makes it read-only and gives it a new name. Other
//! snapshots can then have it as their parent. A view is a read-only snapshot that shows the
//! content of its parent. A snapshotter does not mount its snapshots. It returns [`Mount`]s as
//! data, so most of its methods do not need superuser privileges.
//!
//! An image of two layers is unpacked like this:
//!
//! ```
//! # use cas_core::snapshot::{Commit, Mount};
//! # use cas_core::{Labels, Result, Snapshotter};
//! # async fn apply(_: &str, _: &[Mount]) -> Result<()> { Ok(()) }
//! # async fn unpack(snapshotter: &dyn Snapshotter) -> Result<()> {
//! // The lowest layer goes into an empty snapshot; the caller mounts it and applies the layer.
//! let mounts = snapshotter.prepare("unpack-1", None, Labels::new()).await?;
//! apply("layer 1", &mounts).await?;
//! snapshotter.commit("chain-1", "unpack-1", Commit::default()).await?;
//!
//! // The next layer goes on top of it. The key of the active snapshot can be used again.
//! let mounts = snapshotter.prepare("unpack-1", Some("chain-1"), Labels::new()).await?;
//! apply("layer 2", &mounts).await?;
//! snapshotter.commit("chain-2", "unpack-1", Commit::default()).await?;
//!
//! // The topmost snapshot has all files of the image. They are shown read-only by a view, or
//! // writable for a container.
//! let image = snapshotter.view("look", Some("chain-2"), Labels::new()).await?;
//! let rootfs = snapshotter.prepare("container", Some("chain-2"), Labels::new()).await?;
//!
//! // A parent can only be removed after its children.
//! for key in ["look", "container", "chain-2", "chain-1"] {
//!     snapshotter.remove(key).await?;
//! }
//! # Ok(())
//! # }
//! ```
//!
//! Committed layers are named by their [chain IDs](chain_ids), so images with the same lower layers
//! share the snapshots of these layers.

mod chain;
mod list;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::path::PathBuf;
use std::time::SystemTime;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

pub use chain::chain_ids;
pub use list::{SnapshotList, all, all_sound};

use crate::descriptor::Descriptor;
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::labels::Labels;

/// The state of a snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SnapshotKind {
    /// Read-only. A view has the content of its committed parent, or is empty if it has no parent.
    View,
    /// Writable, until it is committed or removed.
    Active,
    /// Read-only. Other snapshots can have it as their parent.
    Committed,
}

impl SnapshotKind {
    /// Returns the state in words, for messages and lists.
    pub const fn as_str(self) -> &'static str {
        match self {
            SnapshotKind::View => "view",
            SnapshotKind::Active => "active",
            SnapshotKind::Committed => "committed",
        }
    }
}

/// What a snapshotter reports about a snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Info {
    /// Its name. Snapshots in all states share one namespace.
    pub key: String,
    /// Its state.
    pub kind: SnapshotKind,
    /// The key of its parent, a committed snapshot; `None` if it has no parent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<String>,
    /// Its labels.
    #[serde(default, skip_serializing_if = "Labels::is_empty")]
    pub labels: Labels,
    /// When it entered this state.
    #[serde(with = "crate::time")]
    pub created_at: SystemTime,
    /// When it entered this state, or was last updated since. No two updates of one snapshot have
    /// the same time.
    #[serde(with = "crate::time")]
    pub updated_at: SystemTime,
}

/// The space that a snapshot takes, without its parents. A file with several hard links counts
/// once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// Number of bytes on disk.
    pub bytes: u64,
    /// Number of inodes.
    pub inodes: u64,
}

impl std::ops::AddAssign for Usage {
    fn add_assign(&mut self, other: Self) {
        self.bytes += other.bytes;
        self.inodes += other.inodes;
    }
}

/// Progress of a layer that is read on demand, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OnDemandBytes {
    /// Size of the data that is read on demand: the decompressed layer, or, for an eStargz or
    /// zstd:chunked layer, only the content of its files.
    pub total: u64,
    /// Decompressed bytes that were verified and stored.
    pub verified: u64,
    /// Compressed bytes that were fetched, including bytes that were fetched twice or were wrong.
    pub fetched: u64,
    /// Bytes that readers have requested. Bytes that the kernel reads from its cache do not count.
    pub read: u64,
}

/// How much of a snapshot is checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Depth {
    /// Whether the snapshot has its directory.
    Directory,
    /// Attributes of every file and directory, such as type, mode, owner, size and time of
    /// modification. The bytes of files are not read.
    Files,
    /// Everything that `Files` checks, and the bytes of every file.
    Bytes {
        /// Maximum number of bytes that are read per second; `None` for no maximum.
        per_second: Option<u64>,
    },
}

/// The condition of a snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Condition {
    /// Nothing is wrong.
    Sound,
    /// Its directory is missing.
    Missing,
    /// A file of another type is in the place of its directory, its files differ from the files
    /// that were committed, or files that the snapshotter built for the mounts of the snapshot were
    /// changed. The text names the problem or the first differences.
    Damaged(String),
}

/// A mount that makes a snapshot visible.
///
/// Later versions may add types of mounts. A caller returns [`Mount::unsupported`] for a type that
/// it does not support.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", tag = "type")]
#[non_exhaustive]
pub enum Mount {
    /// A bind mount of one directory.
    Bind {
        /// The directory.
        source: PathBuf,
        /// Whether the mount is read-only.
        read_only: bool,
    },
    /// An overlay of several directories.
    Overlay {
        /// Lower directories, topmost first.
        lower: Vec<PathBuf>,
        /// The directory for writes. If it is `None`, the mount is read-only.
        upper: Option<PathBuf>,
        /// The work directory of the overlay, on the same file system as `upper`; `None` if `upper`
        /// is `None`.
        work: Option<PathBuf>,
        /// Further mount options.
        options: Vec<String>,
    },
    /// An EROFS image, read-only. All users of an image share one mount of it. In a list of mounts,
    /// an overlay may follow one or more images. The lower directories of the overlay are the
    /// `shared` directories of these images.
    Erofs {
        /// The file with the metadata.
        image: PathBuf,
        /// The files with the data, in the order in which the image numbers them.
        devices: Vec<PathBuf>,
        /// The directory at which the image is mounted for all users. The other mounts of the
        /// snapshot use this path. The directory does not exist until the image is mounted.
        shared: PathBuf,
        /// How the kernel reads the files.
        #[serde(default)]
        backing: Backing,
    },
}

/// How the kernel reads the `image` and the `devices` of a [`Mount::Erofs`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Backing {
    /// Directly: the kernel mounts the files themselves. This needs Linux 6.12.
    #[default]
    File,
    /// Through a loop device for each file. The loop devices exist as long as the image is mounted.
    Loop,
}

impl Mount {
    /// Returns the `Unsupported` error of a caller that does not support mounts of this type.
    pub fn unsupported(&self) -> Error {
        Error::unsupported(format!(
            "mounts of type {} are not supported here; use a snapshotter of another type",
            self.type_name()
        ))
        .operation("mount")
    }

    /// Returns the type of the mount, as it is serialized.
    pub const fn type_name(&self) -> &'static str {
        match self {
            Mount::Bind { .. } => "bind",
            Mount::Overlay { .. } => "overlay",
            Mount::Erofs { .. } => "erofs",
        }
    }

    /// Returns whether all mounts of a snapshot are read-only.
    pub fn is_read_only(mounts: &[Mount]) -> bool {
        mounts.iter().all(|mount| match mount {
            Mount::Bind { read_only, .. } => *read_only,
            Mount::Overlay { upper, .. } => upper.is_none(),
            Mount::Erofs { .. } => true,
        })
    }
}

/// The name of the tar in the directory of [`LayerTarget::Tar`].
pub const LAYER_TAR: &str = "layer.tar";
/// The name of the layer in the directory of [`LayerTarget::Tar`] if the layer is an EROFS image,
/// not a tar.
pub const LAYER_IMAGE: &str = "layer.erofs";

/// The target to which a caller writes the layer of a new snapshot.
///
/// Later versions may add other targets. A caller returns `Unsupported` for a target that it does
/// not support.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum LayerTarget {
    /// The layer is applied to the tree that these mounts show.
    Tree(Vec<Mount>),
    /// The caller stores the uncompressed tar of the layer in this directory, under the name
    /// [`LAYER_TAR`]. If the snapshotter has the [feature](Snapshotter::os_features)
    /// [`EROFS`](crate::platform::EROFS), the layer may also be an EROFS image under the name
    /// [`LAYER_IMAGE`]. For a layer that is read on demand, the caller stores a table of contents
    /// instead, in files whose names and formats the crate `cas-lazy` defines. The directory is
    /// empty at first. When the snapshot is committed, the directory must contain only the file or
    /// files of the layer.
    Tar(PathBuf),
}

/// Options of [`Snapshotter::commit`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Commit {
    /// Labels of the committed snapshot. The labels of the active snapshot are dropped.
    pub labels: Labels,
    /// A committed parent for an active snapshot that has no parent. Layers that are unpacked in
    /// parallel get their parents by this option. Only a snapshotter that
    /// [rebases](Snapshotter::rebases) supports it. For a snapshot that already has a parent, the
    /// option must be `None` or the same parent, and has no effect.
    pub parent: Option<String>,
    /// Whether the caller has synced the file system of the mounts (`syncfs`) after the last write.
    /// One such sync is enough for all layers of an image.
    pub synced: bool,
    /// What [`Snapshotter::measure`] returned after the last write, if the caller has called it.
    pub usage: Option<Usage>,
}

/// A store of snapshots. See the [module](self) for an example.
///
/// Its records are always local, even if the content store is not; see
/// [`Snapshots`](crate::records::Snapshots). Every method may return errors of the records and of
/// the file system, besides the errors that its documentation lists.
#[async_trait]
pub trait Snapshotter: Send + Sync + 'static {
    /// Returns the name of the snapshotter, such as `native`, `overlay` or `erofs`. The name is
    /// also the scheme by which a [`Registry`](crate::Registry) finds the snapshotter.
    fn name(&self) -> &'static str;

    /// Returns whether a commit can add a parent to a snapshot that has no parent. After the
    /// commit, the content of the snapshot counts as changes to the new parent. If this method
    /// returns true, the mounts of an active snapshot without a parent show one directory, unless
    /// [`Snapshotter::prepare_layer`] returned a [`LayerTarget::Tar`] for the snapshot. The caller
    /// marks deletions in this directory as overlayfs does, so that the directory can become a
    /// layer of an overlay.
    fn rebases(&self) -> bool;

    /// Returns whether [`Snapshotter::prepare_layer`] returns [`LayerTarget::Tar`]. If so, a commit
    /// does not apply the layer to the layers below it. The first [`view`](Snapshotter::view) or
    /// [`prepare`](Snapshotter::prepare) on the committed snapshot applies the layer, and fails if
    /// this is not possible.
    fn keeps_tars(&self) -> bool {
        false
    }

    /// Returns the values of `os.features` that this snapshotter supports, such as
    /// [`EROFS`](crate::platform::EROFS). Images whose platforms require these features can be
    /// unpacked into the snapshotter. If an image has several variants for the platform of this
    /// machine, an unpack prefers a variant that requires these features.
    fn os_features(&self) -> &'static [&'static str] {
        &[]
    }

    /// Opens the tar of the layer that was committed as `key`. Returns `None` if the snapshot does
    /// not exist, or does not consist of a tar. Does not read or verify the tar. By default,
    /// returns `None` for every key.
    async fn open_tar(&self, _key: &str) -> Result<Option<File>> {
        Ok(None)
    }

    /// Looks for a ready layer: the uncompressed bytes of a layer in a directory outside of the
    /// snapshotter, which an option of the snapshotter names. `key` is an active snapshot for which
    /// [`Snapshotter::prepare_layer`] has returned a [`LayerTarget::Tar`], and whose directory is
    /// still empty. If there is a ready layer with the diff ID `diff_id`, reads all of it to verify
    /// it, and makes the snapshot refer to it. A ready layer that cannot be used is logged and
    /// passed over. `layer` is the descriptor of the layer in its image.
    ///
    /// Returns whether the snapshot refers to a ready layer. If so, the caller does not write the
    /// layer before the commit. By default, returns false.
    ///
    /// # Errors
    /// `NotFound` if the snapshot does not exist; `FailedPrecondition` if it is not active;
    /// `AlreadyExists` if it refers to a ready layer already.
    async fn use_ready_layer(
        &self,
        _key: &str,
        _layer: &Descriptor,
        _diff_id: &Digest,
    ) -> Result<bool> {
        Ok(false)
    }

    /// Returns whether the committed snapshot `key` refers to a ready layer, and so has no bytes of
    /// its own layer. By default, returns false.
    ///
    /// # Errors
    /// `NotFound` if the snapshot does not exist.
    async fn has_ready_layer(&self, _key: &str) -> Result<bool> {
        Ok(false)
    }

    /// Makes the active snapshot `key`, empty or with the content of a committed parent. Returns
    /// its mounts.
    ///
    /// # Errors
    /// `AlreadyExists` if a snapshot has the key; `NotFound` if the parent does not exist;
    /// `InvalidArgument` if the parent is not committed, if the key is empty, has control
    /// characters or is longer than [`limit::KEY`](crate::limit::KEY) bytes, or if the labels
    /// exceed the bounds of [`check_labels`](crate::labels::check_labels). If the snapshotter
    /// [keeps tars](Self::keeps_tars), and the layers of the parent cannot be mounted, the error
    /// states why, for example `Corrupt` for a changed tar.
    async fn prepare(&self, key: &str, parent: Option<&str>, labels: Labels) -> Result<Vec<Mount>>;

    /// Makes the active snapshot `key` for one layer, which the caller writes to the returned
    /// target and then commits. Snapshotters that keep layers as archives return
    /// [`LayerTarget::Tar`]. Other snapshotters return the mounts of [`Snapshotter::prepare`].
    ///
    /// # Errors
    /// As [`Snapshotter::prepare`].
    async fn prepare_layer(
        &self,
        key: &str,
        parent: Option<&str>,
        labels: Labels,
    ) -> Result<LayerTarget> {
        let mounts = self.prepare(key, parent, labels).await?;
        Ok(LayerTarget::Tree(mounts))
    }

    /// Makes the view `key`, empty or with the content of a committed parent. Returns its mounts.
    ///
    /// # Errors
    /// As [`Snapshotter::prepare`].
    async fn view(&self, key: &str, parent: Option<&str>, labels: Labels) -> Result<Vec<Mount>>;

    /// Returns the mounts of an active snapshot or a view.
    ///
    /// # Errors
    /// `NotFound` if the snapshot does not exist; `FailedPrecondition` if it is committed, or was
    /// made for a [`LayerTarget::Tar`]; errors of [`Snapshotter::prepare`] if the layers of the
    /// parent cannot be mounted.
    async fn mounts(&self, key: &str) -> Result<Vec<Mount>>;

    /// Turns the active snapshot `key` into the committed snapshot `name`. Afterwards `key` can be
    /// used again. The content is durable when the method returns.
    ///
    /// # Errors
    /// `NotFound` if `key` or `options.parent` does not exist; `AlreadyExists` if a snapshot has
    /// the name; `FailedPrecondition` if `key` is not active, or was made for a
    /// [`LayerTarget::Tar`] and the layer is not stored yet; `InvalidArgument` if `key` already
    /// has another parent than `options.parent`, if `options.parent` is not committed, or if `name`
    /// or `options.labels` would be invalid in [`Snapshotter::prepare`]; `Unsupported` if
    /// `options.parent` is given for a snapshot without a parent and the snapshotter does not
    /// [rebase](Snapshotter::rebases), or if the snapshotter cannot keep the content as a layer,
    /// for example because the layers below are EROFS images; `Conflict` if another snapshot was
    /// created under `key` meanwhile.
    async fn commit(&self, name: &str, key: &str, options: Commit) -> Result<()>;

    /// Removes a snapshot in any state.
    ///
    /// # Errors
    /// `NotFound` if the snapshot does not exist; `FailedPrecondition` while it has children.
    async fn remove(&self, key: &str) -> Result<()>;

    /// Removes a snapshot if it is still as `seen` describes it. Returns false if the snapshot does
    /// not exist, was updated since, or is another snapshot under the same key.
    ///
    /// # Errors
    /// `FailedPrecondition` while it has children.
    async fn remove_seen(&self, seen: &Info) -> Result<bool>;

    /// Returns the snapshot, or `None` if it does not exist.
    async fn stat(&self, key: &str) -> Result<Option<Info>>;

    /// Replaces the labels that the field paths name, or all labels if there are no field paths. A
    /// label with an empty value is removed. Returns the updated snapshot.
    ///
    /// # Errors
    /// `NotFound` if the snapshot does not exist; `InvalidArgument` for a field path other than
    /// `labels` and `labels.<key>`, or for labels that exceed their bounds.
    async fn update(&self, key: &str, labels: Labels, fieldpaths: &[&str]) -> Result<Info>;

    /// Returns the space that the snapshot takes, without its parents. The space of an active
    /// snapshot is measured again at each call. For a committed snapshot, returns the space that
    /// was measured when its content was committed or last replaced, plus the space of the files
    /// that the snapshotter has made since then to mount children of the snapshot, such as an EROFS
    /// image of its layers.
    ///
    /// # Errors
    /// `NotFound` if the snapshot does not exist; errors of the file system.
    async fn usage(&self, key: &str) -> Result<Usage>;

    /// Returns how much of the layer of a snapshot has arrived, or `None` if the layer is not read
    /// on demand. By default, returns `None` for every key.
    ///
    /// # Errors
    /// `NotFound` if the snapshot does not exist; errors of the file system.
    async fn on_demand(&self, _key: &str) -> Result<Option<OnDemandBytes>> {
        Ok(None)
    }

    /// Does the part of a commit that reads the files of the active snapshot `key`. The caller must
    /// not change the files afterwards. Returns the space that the snapshot takes, for
    /// [`Commit::usage`]. A caller that syncs several snapshots can call this method during the
    /// sync. The default implementation only calls [`Snapshotter::usage`].
    ///
    /// # Errors
    /// `NotFound` if the snapshot does not exist; `FailedPrecondition` if it is not active, except
    /// that the default implementation accepts a snapshot in any state.
    async fn measure(&self, key: &str) -> Result<Usage> {
        self.usage(key).await
    }

    /// Returns at most `limit` snapshots in the order of their keys, starting after the key
    /// `after`, or at the first snapshot if `after` is `None`.
    async fn walk(&self, after: Option<&str>, limit: usize) -> Result<Vec<Info>>;

    /// Returns the condition of a snapshot. A view that has a parent has no directory, and its
    /// condition is always [`Condition::Sound`]. For any other snapshot, every call checks that the
    /// directory exists. With [`Depth::Files`] or [`Depth::Bytes`], the call also compares the
    /// files of a committed snapshot with the list of files that was recorded at the commit. If an
    /// earlier release committed the snapshot, or if power was lost after the commit, this list may
    /// be missing or lack checksums. The call then compares only what was recorded. With
    /// [`Depth::Bytes`], the call takes as long as reading all files.
    ///
    /// # Errors
    /// `NotFound` if the snapshot does not exist; errors of the file system.
    async fn check(&self, key: &str, depth: Depth) -> Result<Condition>;

    /// Returns whether [`Self::check`] cannot compare the files of a snapshot, because the snapshot
    /// is committed and the list of its files is missing. By default, returns false.
    ///
    /// # Errors
    /// `NotFound` if the snapshot does not exist; errors of the file system.
    async fn is_unlisted(&self, _key: &str) -> Result<bool> {
        Ok(false)
    }

    /// Repairs the committed snapshot `key` if its layer is sound, and the damage is only in files
    /// that the snapshotter has made from layers to mount the snapshot. First checks the layer,
    /// reading at most `per_second` bytes per second. Then removes the damaged files, which are
    /// made again when next needed. Existing mounts keep the old files. Returns whether the
    /// snapshot is now sound. If not, nothing was changed. By default, returns false.
    ///
    /// # Errors
    /// `NotFound` if the snapshot does not exist; errors of the file system.
    async fn repair(&self, _key: &str, _per_second: Option<u64>) -> Result<bool> {
        Ok(false)
    }

    /// Gives the committed snapshot `key` the files of the active snapshot `by`, which has the same
    /// parent, and removes `by`. Existing mounts keep the old files.
    ///
    /// # Errors
    /// `NotFound` if `key` or `by` does not exist; `FailedPrecondition` if `by` is not active;
    /// `InvalidArgument` if `key` is not committed, or if the parents differ; errors of
    /// [`Snapshotter::commit`] if the content of `by` cannot be committed.
    async fn replace(&self, key: &str, by: &str) -> Result<()>;

    /// Returns the keys of the snapshots with a damaged record. A record is damaged if it does not
    /// parse, or if the chain of its parents is broken or circular. An empty key in the result
    /// means that the counter with which the snapshotter numbers its directories is lost or wrong.
    /// If `remove` is set, removes the damaged records of snapshots and corrects the counter, so
    /// that the other snapshots can be used. The record of a snapshot stays if only the chain of
    /// its parents is broken, and the snapshot does not [belong to a
    /// job](crate::labels::is_of_job).
    ///
    /// # Errors
    /// `Conflict` if `remove` is set and another process changes a record that this call must
    /// remove or correct.
    async fn damaged_records(&self, remove: bool) -> Result<Vec<String>>;

    /// Returns the space that each leftover takes. A leftover is a file or directory that no record
    /// names, for example because a process was killed while it made or removed a snapshot, or
    /// because the directory of a removed snapshot could not be removed. The list does not contain
    /// leftovers that are in use (see [`Snapshotter::cleanup`]).
    async fn leftovers(&self) -> Result<Vec<Usage>>;

    /// Removes the [leftovers](Snapshotter::leftovers) that are not in use. A leftover is in use if
    /// a mount uses its files, or if a process is building or committing a snapshot in it. The
    /// directory that a snapshot had before it was [replaced](Snapshotter::replace) is also in use
    /// as long as an active snapshot or a view exists that was made on top of the snapshot before
    /// the replacement. A garbage collection of the whole store calls this method, and so does a
    /// check that repairs. Returns the space that was freed.
    async fn cleanup(&self) -> Result<Usage>;

    /// Returns the directories that no record names, but that may have the only copy of files: the
    /// snapshot in such a directory did not [belong to a job](crate::labels::is_of_job), and its
    /// record was lost. They do not count as [leftovers](Snapshotter::leftovers). To give up the
    /// files, remove the directory. By default, returns no directories.
    async fn lost(&self) -> Result<Vec<PathBuf>> {
        Ok(Vec::new())
    }

    /// Returns the paths of tars of layers that are in directories without a record: the record of
    /// the snapshot was lost or is damaged, or its removal was interrupted. Leaves out the
    /// directories that [`lost`](Self::lost) returns. Does not read the tars. By default, returns
    /// no paths.
    async fn unnamed_tars(&self) -> Result<Vec<PathBuf>> {
        Ok(Vec::new())
    }

    /// Reads the [tars in directories without a record](Self::unnamed_tars), and keeps those whose
    /// digests are in `needed`: their directories do not count as [leftovers](Self::leftovers)
    /// until the next call. `needed` are the diff IDs of layers that may have no other copy.
    /// Returns the paths of the tars that are kept, by digest. By default, keeps no tars.
    async fn keep_tars(&self, _needed: &BTreeSet<Digest>) -> Result<BTreeMap<Digest, PathBuf>> {
        Ok(BTreeMap::new())
    }

    /// Closes the snapshotter. Later calls of the other asynchronous methods fail with
    /// `FailedPrecondition`. Default implementations that only return `None` or false do not fail.
    async fn close(&self) -> Result<()>;
}
