//! The copying snapshotter: every active snapshot is a complete directory tree.
//!
//! ```text
//! ROOT/snapshots/7/     see [`cas_host::snapshotter`]
//!   fs/                 the snapshot's tree; without a parent it starts empty, with mode 0755
//! ```
//! - An active snapshot on a parent is a copy of the parent's tree. If the file system has reflinks
//!   (`FICLONE`), the files of the copy share their bytes with the files of the parent.
//! - A view on a parent is the parent's tree, read-only. A view without a parent is an empty,
//!   read-only directory.

use cas_core::Result;
use cas_core::records::SnapshotRecord;
use cas_core::snapshot::{Mount, SnapshotKind};
use cas_host::snapshotter::{DirSnapshotter, SnapshotLayout};
use cas_host::{LockedDir, SnapshotDirs, copy_tree, make_tree};

mod opener;

pub use opener::NativeOpener;

/// The name of the snapshotter.
pub const NAME: &str = Native::NAME;

/// The copying snapshotter.
pub type NativeSnapshotter = DirSnapshotter<Native>;

/// The layout of the copying snapshotter: the directory of a snapshot contains its complete tree. A
/// commit cannot add a parent to a snapshot.
#[derive(Clone, Copy, Debug)]
pub struct Native;

impl SnapshotLayout for Native {
    const NAME: &'static str = "native";
    const REBASES: bool = false;

    fn open() -> Result<Self> {
        Ok(Native)
    }

    fn fill(&self, dirs: &SnapshotDirs, new: &LockedDir, below: &[u64]) -> Result<()> {
        match below.first() {
            Some(parent) => copy_tree(dirs.lock_shared(*parent)?, new),
            None => make_tree(new),
        }
    }

    fn mounts(
        &self,
        dirs: &SnapshotDirs,
        snapshot: &SnapshotRecord,
        below: &[u64],
    ) -> Result<Vec<Mount>> {
        let read_only = snapshot.kind == SnapshotKind::View;
        let parent = below.first().filter(|_| read_only);
        Ok(vec![Mount::Bind {
            source: dirs.tree(*parent.unwrap_or(&snapshot.id))?,
            read_only,
        }])
    }
}
