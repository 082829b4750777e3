//! Measures and removes leftovers. A leftover is a directory that no record names, that nothing
//! uses, and that has neither a `.kept` file nor a tar that is kept (`stray_tars.rs`). A file in
//! `manifests/` whose number has neither a directory nor a record is a leftover, too, and so is a
//! temporary file that a killed process has left in the directory of a snapshot.

use std::collections::BTreeSet;
use std::sync::Arc;

use cas_core::error::{ErrorKind, Result};
use cas_core::pool;
use cas_core::snapshot::Usage;
use cas_core::sync::lock;

use super::{DirSnapshotter, SnapshotLayout};
use crate::LockedDir;
use crate::in_use::MountedDirs;

/// The usage of a leftover that is not a directory. Its bytes are not counted.
const ONE_FILE: Usage = Usage {
    bytes: 0,
    inodes: 1,
};

/// The lock on a leftover. `None` for an entry that is not a directory. No process builds or
/// commits such an entry.
type LeftoverLock = Option<LockedDir>;

/// Maximum number of leftovers that are locked at a time.
const LOCKED_LEFTOVERS: usize = 64;

impl<L: SnapshotLayout> DirSnapshotter<L> {
    /// Returns the space that each leftover takes.
    pub(super) async fn measure_leftovers(&self) -> Result<Vec<Usage>> {
        let stray = match self.stray_manifests().await {
            // Something else is in the place of the manifests. `fsck` reports that by itself, and a
            // cleanup fails.
            Err(error) if error.kind() == ErrorKind::FailedPrecondition => Vec::new(),
            stray => stray?,
        };
        let dirs = Arc::clone(&self.dirs);
        let measure = move || {
            let measured = stray.iter().map(|id| dirs.measure_beside(*id));
            let mut found = measured.collect::<Result<Vec<Usage>>>()?;
            found.extend(dirs.temporary_files(false)?);
            Ok(found)
        };
        let (mut found, candidates) = (pool::run(measure).await?, self.unnamed().await?);
        if !candidates.is_empty() {
            found.extend(self.measure_unnamed(&candidates).await?);
        }
        // What was removed after it was listed is not a leftover.
        found.retain(|usage| *usage != Usage::default());
        Ok(found)
    }

    /// Returns the space that each of the candidates takes, if it is a leftover.
    async fn measure_unnamed(&self, candidates: &[u64]) -> Result<Vec<Usage>> {
        let mounted = MountedDirs::read();
        let mut found = Vec::new();
        for some in candidates.chunks(LOCKED_LEFTOVERS) {
            let leftovers = self.lock_leftovers(some, &mounted).await?;
            let dirs = Arc::clone(&self.dirs);
            let measured = pool::run(move || {
                let usage = |(id, dir): &(u64, LeftoverLock)| {
                    let mut usage = dirs.measure_beside(*id)?;
                    match dir.as_ref().map_or(Ok(ONE_FILE), LockedDir::usage) {
                        // The lock does not prevent a removal.
                        Err(error) if error.kind() == ErrorKind::NotFound => {}
                        measured => usage += measured?,
                    }
                    Ok(usage)
                };
                leftovers.iter().map(usage).collect::<Result<Vec<Usage>>>()
            });
            found.extend(measured.await?);
        }
        Ok(found)
    }

    /// Removes the leftovers. Returns the freed space.
    ///
    /// A commit changes the key of a record, so a list of the records that is made meanwhile may
    /// miss the record. So the candidates are locked, and the records are listed again. A locked
    /// directory is neither built nor committed.
    pub(super) async fn remove_leftovers(&self) -> Result<Usage> {
        let (layout, dirs) = (Arc::clone(&self.layout), Arc::clone(&self.dirs));
        pool::run(move || {
            layout.release(&dirs);
            Ok(())
        })
        .await?;
        let dirs = Arc::clone(&self.dirs);
        let removed = pool::run(move || dirs.temporary_files(true)).await?;
        let mut freed = Usage::default();
        removed.into_iter().for_each(|usage| freed += usage);
        for id in self.stray_manifests().await? {
            freed += self.dirs.remove_beside(id)?;
        }
        let candidates = self.unnamed().await?;
        if candidates.is_empty() {
            return Ok(freed);
        }
        let mounted = MountedDirs::read();
        for some in candidates.chunks(LOCKED_LEFTOVERS) {
            let leftovers = self.lock_leftovers(some, &mounted).await?;
            let (layout, dirs) = (Arc::clone(&self.layout), Arc::clone(&self.dirs));
            freed += pool::run(move || {
                let mut freed = Usage::default();
                for (id, _dir) in &leftovers {
                    layout.unprotect(&dirs, *id)?;
                    match dirs.remove(*id) {
                        Err(error) if error.kind() == ErrorKind::Busy => {
                            tracing::debug!(id, %error, "cannot remove a leftover that is in use");
                        }
                        removed => freed += removed?,
                    }
                }
                Ok(freed)
            })
            .await?;
        }
        Ok(freed)
    }

    /// Returns the numbers of the files in `manifests/` that have neither a directory nor a record.
    async fn stray_manifests(&self) -> Result<Vec<u64>> {
        let dirs = Arc::clone(&self.dirs);
        let found = pool::run(move || dirs.without_directory()).await?;
        if found.is_empty() {
            return Ok(Vec::new());
        }
        let named = self.snapshots.named_ids().await?;
        Ok(found.difference(&named).copied().collect())
    }

    /// Returns the numbers of the directories that no record names, and that have neither a `.kept`
    /// file nor a tar that is kept.
    async fn unnamed(&self) -> Result<Vec<u64>> {
        let mut found: BTreeSet<u64> = self.dirs.ids()?.into_iter().collect();
        let kept = self.dirs.kept()?;
        found.retain(|id| !kept.contains(id) && !lock(&self.kept_tars).contains(id));
        let named = self.snapshots.named_ids().await?;
        Ok(found.difference(&named).copied().collect())
    }

    /// Returns the numbers of the directories that have a `.kept` file, but that no record names.
    pub(super) async fn find_lost(&self) -> Result<Vec<u64>> {
        let (ids, mut kept) = (self.dirs.ids()?, self.dirs.kept()?);
        kept.retain(|id| ids.contains(id));
        if kept.is_empty() {
            return Ok(Vec::new());
        }
        // A commit may move the snapshot to another key while the records are listed.
        for _ in 0..2 {
            let named = self.snapshots.named_ids().await?;
            kept.retain(|id| !named.contains(id));
        }
        Ok(kept.into_iter().collect())
    }

    /// Returns whether a directory that no record names may be mounted. This is the case if a mount
    /// shows its path, or if a repair replaced the directory and snapshots that used it still
    /// exist.
    pub(super) async fn is_in_use(&self, id: u64, mounted: &MountedDirs) -> Result<bool> {
        if mounted.may_use(&self.dirs.path(id)) {
            return Ok(true);
        }
        match self.dirs.replaced_key(id)? {
            Some((key, time)) => self.snapshots.has_users(&key, time).await,
            None => Ok(false),
        }
    }

    /// Returns the candidates that no record names and that are not [in use](Self::is_in_use),
    /// locked so that no process builds or commits them.
    async fn lock_leftovers(
        &self,
        candidates: &[u64],
        mounted: &MountedDirs,
    ) -> Result<Vec<(u64, LeftoverLock)>> {
        let mut locked = Vec::new();
        for id in candidates {
            match self.dirs.try_lock_exclusive(*id) {
                Err(error) if error.kind() == ErrorKind::Corrupt => locked.push((*id, None)),
                dir => locked.extend(dir?.map(|dir| (*id, Some(dir)))),
            }
        }
        let named = self.snapshots.named_ids().await?;
        let mut leftovers = Vec::new();
        for (id, dir) in locked {
            if !named.contains(&id) && !self.is_in_use(id, mounted).await? {
                leftovers.push((id, dir));
            }
        }
        Ok(leftovers)
    }
}
