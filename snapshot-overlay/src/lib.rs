//! The overlay snapshotter: the directory of a snapshot contains only what the snapshot changes in
//! its parent's tree.
//!
//! ```text
//! ROOT/snapshots/7/     see [`cas_host::snapshotter`]
//!   fs/                 what the snapshot adds or changes, and whiteouts for what it removes
//!   work/               0700, used by the kernel while the snapshot is mounted writable
//! ```
//! - An active snapshot on a parent is an overlay of its `fs` over the `fs` of its ancestors.
//! - A snapshot without a parent is a bind mount of its `fs`. If the snapshot is a view, the mount
//!   is read-only.
//! - A view on a parent without ancestors is a read-only bind mount of the parent's `fs`. A view
//!   on a parent with ancestors is a read-only overlay of the `fs` of the parent over the `fs` of
//!   the ancestors.
//! - This crate mounts nothing except to probe. It returns mounts as data. [`cas_host::mount`]
//!   mounts them. Another program can also mount them, if it supports overlays with as many lower
//!   layers as the snapshot has ancestors.
//!
//! As on every overlay with the option `index=off`, writing to a hard link of a file in a lower
//! layer breaks the link.

use cas_core::Result;
use cas_core::records::SnapshotRecord;
use cas_core::snapshot::{Mount, SnapshotKind};
use cas_host::snapshotter::{DirSnapshotter, SnapshotLayout};
use cas_host::{LockedDir, SnapshotDirs, copy_attributes, make_tree, open_tree, overlay};

mod opener;
mod probe;

pub use opener::OverlayOpener;
pub use probe::probe;

/// The name of the snapshotter.
pub const NAME: &str = Overlay::NAME;

/// The overlay snapshotter.
pub type OverlaySnapshotter = DirSnapshotter<Overlay>;

/// The layout of the overlay snapshotter: the directory of a snapshot contains its changes.
#[derive(Clone, Debug)]
pub struct Overlay {
    /// The mount options of every overlay.
    options: Vec<String>,
}

impl SnapshotLayout for Overlay {
    const NAME: &'static str = "overlay";
    const REBASES: bool = true;

    fn open() -> Result<Self> {
        let options = overlay::options()?;
        Ok(Overlay { options })
    }

    /// Copies the attributes of the parent's root directory, because an overlay shows the
    /// attributes of the root directory of its top layer.
    fn fill(&self, dirs: &SnapshotDirs, new: &LockedDir, below: &[u64]) -> Result<()> {
        make_tree(new)?;
        overlay::make_work(new)?;
        match below.first() {
            Some(parent) => {
                let parent = dirs.lock_shared(*parent)?;
                copy_attributes(open_tree(&parent)?, open_tree(new)?)
            }
            None => Ok(()),
        }
    }

    fn mounts(
        &self,
        dirs: &SnapshotDirs,
        snapshot: &SnapshotRecord,
        below: &[u64],
    ) -> Result<Vec<Mount>> {
        let tree = |id: u64| dirs.tree(id);
        let read_only = snapshot.kind == SnapshotKind::View;
        Ok(vec![match below {
            [] => Mount::Bind {
                source: tree(snapshot.id)?,
                read_only,
            },
            [parent] if read_only => Mount::Bind {
                source: tree(*parent)?,
                read_only,
            },
            _ => Mount::Overlay {
                lower: below.iter().map(|id| tree(*id)).collect::<Result<_>>()?,
                upper: (!read_only).then(|| tree(snapshot.id)).transpose()?,
                work: (!read_only).then(|| dirs.path(snapshot.id).join(overlay::WORK)),
                options: self.options.clone(),
            },
        }])
    }
}
