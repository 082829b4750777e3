//! A snapshotter: the directory of a new snapshot is a copy of its parent's directory. A view that
//! has a parent does not get a directory: its mount shows the directory of the parent.

use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use cas_core::records::SnapshotRecord;
use cas_core::snapshot::{Mount, SnapshotKind};
use cas_core::{Result, Snapshotter, SnapshotterOpener, SnapshotterParts};
use cas_host::snapshotter::{DirSnapshotter, SnapshotLayout};
use cas_host::{LockedDir, SnapshotDirs, TREE, copy_tree, make_tree};

/// The layout: what the directory of a snapshot contains, and how a snapshot is mounted.
pub struct Copies;

impl SnapshotLayout for Copies {
    const NAME: &'static str = "copies";
    const REBASES: bool = false;

    fn open() -> Result<Self> {
        Ok(Copies)
    }

    fn fill(&self, dirs: &SnapshotDirs, new: &LockedDir, below: &[u64]) -> Result<()> {
        match below.first() {
            Some(parent) => copy_tree(dirs.lock_shared(*parent)?, new),
            None => make_tree(new),
        }
    }

    /// Returns the mount of a snapshot. A view is read-only, and shows the directory of its parent,
    /// or its own if it has no parent.
    fn mounts(
        &self,
        dirs: &SnapshotDirs,
        snapshot: &SnapshotRecord,
        below: &[u64],
    ) -> Result<Vec<Mount>> {
        let read_only = snapshot.kind == SnapshotKind::View;
        let parent = below.first().filter(|_| read_only);
        Ok(vec![Mount::Bind {
            source: dirs.path(*parent.unwrap_or(&snapshot.id)).join(TREE),
            read_only,
        }])
    }
}

/// Opens the snapshotter `copies`. It takes no options.
pub struct CopiesOpener;

#[async_trait]
impl SnapshotterOpener for CopiesOpener {
    fn scheme(&self) -> &'static str {
        Copies::NAME
    }

    fn probe(&self, _: &Path) -> Result<()> {
        Ok(())
    }

    async fn open(&self, parts: SnapshotterParts) -> Result<Arc<dyn Snapshotter>> {
        parts.check_options(&[])?;
        let opened = DirSnapshotter::<Copies>::open(parts.directory, parts.records)?;
        Ok(Arc::new(opened))
    }
}
