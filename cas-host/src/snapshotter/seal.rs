//! Making the content of a snapshot durable before it is committed.

use std::sync::Arc;

use cas_core::error::Result;
use cas_core::pool;
use cas_core::records::{SnapshotContent, SnapshotRecord};
use cas_core::snapshot::{Commit, Usage};

use super::{DirSnapshotter, SnapshotLayout, THREAD, is_certain};
use crate::in_use::MountedDirs;
use crate::{LockedDir, SnapshotDirs, make_tree, measure};

impl<L: SnapshotLayout> DirSnapshotter<L> {
    /// Makes the content of an active snapshot durable, and packs it if its layout requires that.
    /// Returns the content, and its directory and that of the snapshot, which the caller keeps
    /// locked until the record is changed and the directory without a record is removed.
    pub(super) async fn seal(
        &self,
        active: &SnapshotRecord,
        options: &Commit,
    ) -> Result<(Vec<Arc<LockedDir>>, SnapshotContent)> {
        let id = active.id;
        let below = self.ids_from(active.clone()).await?.split_off(1);
        let (layout, dirs) = (Arc::clone(&self.layout), Arc::clone(&self.dirs));
        let how = options.clone();
        let sealed = pool::apart(THREAD, move || {
            let dir = dirs.lock_shared(id)?;
            if layout.must_pack(&dirs, &dir, &below)? {
                return Ok((dir, None));
            }
            let usage = in_place(&dirs, id, &dir, &how)?;
            layout.protect(&dir)?;
            Ok((dir, Some(usage)))
        });
        let (active, usage) = sealed.await?;
        let active = Arc::new(active);
        match usage {
            Some(usage) => {
                let content = SnapshotContent {
                    usage,
                    id: None,
                    of: Some(id),
                };
                Ok((vec![active], content))
            }
            None => {
                let (packed, content) = self.pack(id, Arc::clone(&active)).await?;
                Ok((vec![active, Arc::new(packed)], content))
            }
        }
    }

    /// Measures the active snapshot in the directory of `id` and writes its manifest.
    pub(super) async fn describe(&self, id: u64) -> Result<Usage> {
        let dirs = Arc::clone(&self.dirs);
        pool::apart(THREAD, move || describe(&dirs, id, &dirs.lock_shared(id)?)).await
    }

    /// Packs the active snapshot in the directory of `of` into a new directory.
    async fn pack(&self, of: u64, active: Arc<LockedDir>) -> Result<(LockedDir, SnapshotContent)> {
        let (layout, dirs) = (Arc::clone(&self.layout), Arc::clone(&self.dirs));
        let packed = self.in_new_dir(move |new| {
            make_tree(&new)?;
            layout.pack(&active, &new)?;
            dirs.sync_content(&new)?;
            Ok(new)
        });
        let (id, new) = packed.await?;
        let (layout, dirs) = (Arc::clone(&self.layout), Arc::clone(&self.dirs));
        let described = pool::run(move || {
            let usage = describe(&dirs, id, &new)?;
            layout.protect(&new)?;
            Ok((new, usage))
        });
        match described.await {
            Ok((new, usage)) => {
                let content = SnapshotContent {
                    usage,
                    id: Some(id),
                    of: Some(of),
                };
                Ok((new, content))
            }
            Err(error) => {
                self.remove_dir(id).await;
                Err(error)
            }
        }
    }

    /// Removes the directory that no record names after a snapshot was packed. This is the
    /// directory of the active snapshot `id` if the record was changed, otherwise the new
    /// directory. If it is not certain whether the record was changed, removes nothing.
    pub(super) async fn end_pack<T>(&self, id: u64, content: SnapshotContent, done: &Result<T>) {
        let Some(new) = content.id else {
            return;
        };
        match done {
            // A cleanup removes the directory when it is not mounted any more.
            Ok(_) if MountedDirs::read().may_use(&self.dirs.path(id)) => {}
            Ok(_) => self.remove_dir(id).await,
            Err(error) if is_certain(error) => self.remove_dir(new).await,
            Err(_) => {}
        }
    }
}

/// Makes the content of a snapshot durable, measures the snapshot and writes its manifest. Skips
/// the steps that the caller has done already according to `options`. Returns the usage.
fn in_place(dirs: &SnapshotDirs, id: u64, dir: &LockedDir, options: &Commit) -> Result<Usage> {
    if !options.synced {
        dirs.sync_content(dir)?;
    }
    match options.usage {
        Some(usage) => Ok(usage),
        None => describe(dirs, id, dir),
    }
}

/// Measures a snapshot and writes its manifest.
fn describe(dirs: &SnapshotDirs, id: u64, dir: &LockedDir) -> Result<Usage> {
    dirs.write_manifest(id, dir)?;
    measure(dir)
}
