//! The copying snapshotter: every active snapshot is a whole directory of its own.
//!
//! ```text
//! ROOT/snapshots/7/     see [`cas_host::snapshotter`]
//!   fs/                 0755 where empty: the root of the snapshot's tree
//! ```
//! - An active snapshot on a parent is a copy of the parent's tree, its bytes shared where the
//!   file system can (`FICLONE`).
//! - A view is its parent's own tree, read-only; without a parent it is an empty directory.

use cas_core::Result;
use cas_core::records::SnapshotRecord;
use cas_core::snapshot::{Mount, SnapshotKind};
use cas_host::snapshotter::{DirSnapshotter, Form};
use cas_host::{Held, SnapshotDirs, TREE, copy_tree, make_tree};

mod opener;

pub use opener::NativeOpener;

/// Under which name it is registered.
pub const NAME: &str = Native::NAME;

/// Snapshots as plain directories.
pub type NativeSnapshotter = DirSnapshotter<Native>;

/// A whole tree in each directory, so that a parent cannot come later.
#[derive(Clone, Copy, Debug)]
pub struct Native;

impl Form for Native {
    const NAME: &'static str = "native";
    const REBASES: bool = false;

    fn open() -> Result<Self> {
        Ok(Native)
    }

    fn fill(&self, dirs: &SnapshotDirs, new: &Held, parent: Option<u64>) -> Result<()> {
        match parent {
            Some(parent) => copy_tree(dirs.hold(parent)?, new),
            None => make_tree(new),
        }
    }

    fn mount(&self, dirs: &SnapshotDirs, snapshot: &SnapshotRecord, below: &[u64]) -> Mount {
        let read_only = snapshot.kind == SnapshotKind::View;
        let owner = below.first().filter(|_| read_only);
        Mount::Bind {
            source: dirs.path(*owner.unwrap_or(&snapshot.id)).join(TREE),
            read_only,
        }
    }
}
