//! Removes snapshots and their directories.

use std::sync::Arc;

use cas_core::error::Result;
use cas_core::pool;
use cas_core::records::SnapshotRecord;

use super::{DirSnapshotter, SnapshotLayout};
use crate::LockedDir;

/// A snapshot that is being removed.
pub(super) struct Removal {
    id: u64,
    /// Whether the snapshot had a `.kept` file.
    was_kept: bool,
    _dir: Option<LockedDir>,
}

impl<L: SnapshotLayout> DirSnapshotter<L> {
    /// Begins to remove the snapshot `key`: locks its directory, as [`lock_dir_to_remove`] does,
    /// and removes its `.kept` file. Returns `None` if the record of the snapshot is absent or
    /// cannot be read.
    ///
    /// [`lock_dir_to_remove`]: Self::lock_dir_to_remove
    pub(super) async fn begin_removal(&self, key: &str) -> Option<Removal> {
        let id = self.snapshots.load(key).await.ok()??.id;
        let dirs = Arc::clone(&self.dirs);
        let begin = move || {
            let dir = dirs.try_lock_exclusive(id).ok().flatten();
            let was_kept = dirs.end_keep(id).unwrap_or(false);
            Ok(Removal {
                id,
                was_kept,
                _dir: dir,
            })
        };
        pool::run(begin).await.ok()
    }

    /// Ends a removal with its outcome: the record that was removed, if one was. Removes the
    /// directory of this record. Makes the `.kept` file again if no record was removed. Returns
    /// whether one was.
    pub(super) async fn end_removal(
        &self,
        begun: Option<Removal>,
        outcome: Result<Option<SnapshotRecord>>,
    ) -> Result<bool> {
        if let Ok(Some(record)) = &outcome {
            self.remove_dir(record.id).await;
            return Ok(true);
        }
        if let Some(removal) = begun.filter(|removal| removal.was_kept) {
            let dirs = Arc::clone(&self.dirs);
            // The error of the removal matters more.
            let _ = pool::run(move || dirs.keep(removal.id)).await;
        }
        outcome.map(|_| false)
    }

    /// Locks the directory of a snapshot that is about to be removed. Until the lock is released,
    /// no other process takes the directory for a leftover, although no record names it any more.
    /// Returns `None` if the directory is absent or cannot be locked. In that case, the snapshot is
    /// removed all the same.
    pub(super) async fn lock_dir_to_remove(&self, id: u64) -> Option<LockedDir> {
        let dirs = Arc::clone(&self.dirs);
        let locked = pool::run(move || dirs.try_lock_exclusive(id)).await;
        locked.ok().flatten()
    }

    /// Removes a directory that no record names. If the removal fails, a later `cleanup` removes
    /// the directory.
    pub(super) async fn remove_dir(&self, id: u64) {
        let (layout, dirs) = (Arc::clone(&self.layout), Arc::clone(&self.dirs));
        let remove = move || {
            layout.release(&dirs);
            layout.unprotect(&dirs, id)?;
            dirs.remove(id)
        };
        if let Err(error) = pool::run(remove).await {
            let why = "cannot remove the directory of a snapshot; a garbage collection will \
                       remove it";
            tracing::warn!(id, %error, "{why}");
        }
    }
}
