//! The content of a snapshotter's directories, and the mounts of its snapshots.

use std::path::PathBuf;

use cas_core::error::Result;
use cas_core::records::SnapshotRecord;
use cas_core::snapshot::{Condition, Depth, LAYER_TAR, Mount, OnDemandBytes, Usage};
use cas_core::{Descriptor, Digest};

use crate::{LockedDir, SnapshotDirs, TREE};

/// The content of a snapshotter's directories, and the mounts of its snapshots. The number of a
/// snapshot is the number of its directory. If a method receives the numbers of ancestors, the
/// nearest ancestor is first.
pub trait SnapshotLayout: Sized + Send + Sync + 'static {
    /// The name of the snapshotter.
    const NAME: &'static str;

    /// Whether a commit can add a parent to a snapshot that has no parent. The method
    /// [`rebases`](cas_core::Snapshotter::rebases) returns this value.
    const REBASES: bool;

    /// Whether a layer is stored as a tar. The method
    /// [`keeps_tars`](cas_core::Snapshotter::keeps_tars) returns this value. If it is true,
    /// [`prepare_layer`](cas_core::Snapshotter::prepare_layer) returns an empty directory for the
    /// tar. Otherwise `prepare_layer` returns mounts, to which the layer is applied.
    const TARS: bool = false;

    /// Returns a layout that uses only what this system supports.
    ///
    /// # Errors
    /// Errors of the system.
    fn open() -> Result<Self>;

    /// Fills the new directory of a snapshot. `below` has the numbers of the ancestors of the
    /// snapshot.
    ///
    /// # Errors
    /// `NotFound` or `Corrupt` if the files of an ancestor are missing or were changed; errors of
    /// the system. After an error, the caller removes the directory.
    fn fill(&self, dirs: &SnapshotDirs, new: &LockedDir, below: &[u64]) -> Result<()>;

    /// Makes the files that the mounts of a snapshot need. This method is called before a view on a
    /// parent is created, and before the mounts of an existing snapshot are returned. `below` has
    /// the numbers of the ancestors of the snapshot.
    ///
    /// # Errors
    /// `NotFound` or `Corrupt` if the files of an ancestor are missing or were changed; errors of
    /// the file system.
    fn ready(&self, _dirs: &SnapshotDirs, _below: &[u64]) -> Result<()> {
        Ok(())
    }

    /// Returns the mounts of an active snapshot or a view. `below` has the numbers of its
    /// ancestors.
    ///
    /// # Errors
    /// `FailedPrecondition` if the snapshot cannot be mounted, for example because it was prepared
    /// to store a layer; `NotFound` or `Corrupt` if the files of the snapshot or of an ancestor are
    /// missing or were changed; errors of the file system.
    fn mounts(
        &self,
        dirs: &SnapshotDirs,
        snapshot: &SnapshotRecord,
        below: &[u64],
    ) -> Result<Vec<Mount>>;

    /// Returns the values of `os.features` that this layout supports. The method
    /// [`os_features`](cas_core::Snapshotter::os_features) returns the same values. By default,
    /// there are none.
    fn os_features(&self) -> &'static [&'static str] {
        &[]
    }

    /// Returns the path of the tar of the committed layer in the directory of `id`. The tar may be
    /// absent. By default, returns the path at which a caller has stored the tar.
    fn tar(&self, dirs: &SnapshotDirs, id: u64) -> PathBuf {
        dirs.path(id).join(TREE).join(LAYER_TAR)
    }

    /// Makes the active snapshot in the directory of `id` refer to a ready layer with this diff ID,
    /// if there is one: see [`use_ready_layer`](cas_core::Snapshotter::use_ready_layer). Returns
    /// whether the snapshot refers to a ready layer. By default, returns false.
    ///
    /// # Errors
    /// `AlreadyExists` if the snapshot refers to a ready layer already; errors of writing the
    /// reference.
    fn use_ready_layer(
        &self,
        _dirs: &SnapshotDirs,
        _id: u64,
        _layer: &Descriptor,
        _diff_id: &Digest,
    ) -> Result<bool> {
        Ok(false)
    }

    /// Returns whether the committed snapshot in the directory of `id` refers to a ready layer. By
    /// default, returns false.
    fn has_ready_layer(&self, _dirs: &SnapshotDirs, _id: u64) -> bool {
        false
    }

    /// Returns whether the tree of an active snapshot must be [packed](Self::pack) to be committed.
    /// `below` has the numbers of the ancestors of the snapshot.
    ///
    /// # Errors
    /// `FailedPrecondition` or `Unsupported` if the snapshot cannot be committed; errors of the
    /// file system.
    fn must_pack(&self, _dirs: &SnapshotDirs, _active: &LockedDir, _below: &[u64]) -> Result<bool> {
        Ok(false)
    }

    /// Stores the changes of an active snapshot in the tree of a new directory, in the form of a
    /// committed snapshot. The caller syncs the new directory.
    ///
    /// # Errors
    /// Errors of the file system. The new directory is then removed.
    fn pack(&self, _active: &LockedDir, _new: &LockedDir) -> Result<()> {
        Ok(())
    }

    /// Protects the files of a snapshot from changes. The methods
    /// [`commit`](cas_core::Snapshotter::commit) and [`replace`](cas_core::Snapshotter::replace)
    /// call this method when the files are complete, and before they change the record of the
    /// snapshot.
    ///
    /// # Errors
    /// Errors of the file system. The record is then not changed.
    fn protect(&self, _complete: &LockedDir) -> Result<()> {
        Ok(())
    }

    /// Ends the protection of the files in the directory of `id`, so that the directory can be
    /// removed. The files can be protected even if this layout protects no files, because the
    /// snapshotter may have had other options when the snapshot was committed.
    ///
    /// # Errors
    /// Errors of the file system.
    fn unprotect(&self, _dirs: &SnapshotDirs, _id: u64) -> Result<()> {
        Ok(())
    }

    /// Returns the space of the files that were made in the directory of `id` after the commit of
    /// the snapshot.
    ///
    /// # Errors
    /// Errors of the file system.
    fn added(&self, _dirs: &SnapshotDirs, _id: u64) -> Result<Usage> {
        Ok(Usage::default())
    }

    /// Returns how much of the layer in the directory of `id` has arrived, or `None` if the layer
    /// is not read on demand.
    ///
    /// # Errors
    /// Errors of the file system.
    fn on_demand(&self, _dirs: &SnapshotDirs, _id: u64) -> Result<Option<OnDemandBytes>> {
        Ok(None)
    }

    /// Returns the condition of the directory of the snapshot with this key. By default, returns
    /// what [`SnapshotDirs::check`] finds.
    ///
    /// # Errors
    /// `Unavailable` if a directory in the tree is moved meanwhile; errors of the file system.
    fn check(
        &self,
        dirs: &SnapshotDirs,
        _key: &str,
        snapshot: &SnapshotRecord,
        depth: Depth,
    ) -> Result<Condition> {
        dirs.check(snapshot.id, depth)
    }

    /// Removes damaged files that this layout has made from layers, if the layer of the committed
    /// snapshot with this key is sound: see [`repair`](cas_core::Snapshotter::repair). Returns
    /// whether the snapshot is now sound. By default, returns false.
    ///
    /// # Errors
    /// Errors of the file system.
    fn repair(
        &self,
        _dirs: &SnapshotDirs,
        _key: &str,
        _snapshot: &SnapshotRecord,
        _per_second: Option<u64>,
    ) -> Result<bool> {
        Ok(false)
    }

    /// Unmounts each mount that snapshots share, if no other mount uses it any more. Then removes
    /// the files that only the unmounted mounts needed. This method is called before the directory
    /// of a snapshot is removed, and at the beginning of a cleanup. The removal or the cleanup
    /// continues even if a mount cannot be unmounted. By default, does nothing.
    fn release(&self, _dirs: &SnapshotDirs) {}
}
