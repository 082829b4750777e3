//! The overlay snapshotter: a directory holds what its snapshot changes on top of those below.
//!
//! ```text
//! ROOT/snapshots/7/     see [`cas_host::snapshotter`]
//!   fs/                 what is new here, with overlayfs's own marks for what is gone
//!   work/               0700, the kernel's, while the snapshot is mounted writable
//! ```
//! - An active snapshot on others is an overlay of its `fs` over theirs; one that stands on nothing
//!   is its `fs` as it is.
//! - A view on one snapshot is that one's `fs`, read-only; on more it is an overlay of theirs.
//! - Nothing is mounted here: what is told is mounted by [`cas_host::mount`], or by anybody else
//!   whose way takes as many layers.
//!
//! As on every overlay, a file with several names that lies below is one file no more once it is
//! written to through one of them.

use std::io;

use cas_core::records::SnapshotRecord;
use cas_core::snapshot::{Mount, SnapshotKind};
use cas_core::{Context, Result};
use cas_host::snapshotter::{DirSnapshotter, Form};
use cas_host::{Held, SnapshotDirs, TREE, copy_attributes, make_tree, overlay};
use rustix::fs::{Mode, OFlags};

mod opener;
mod probe;

pub use opener::OverlayOpener;
pub use probe::probe;

/// Under which name it is registered.
pub const NAME: &str = Overlay::NAME;

/// Snapshots as layers of overlays.
pub type OverlaySnapshotter = DirSnapshotter<Overlay>;

/// Where the kernel keeps what is under way.
const WORK: &str = "work";

/// What each snapshot changes in a directory.
#[derive(Clone, Debug)]
pub struct Overlay {
    /// Options of every mount.
    options: Vec<String>,
}

impl Form for Overlay {
    const NAME: &'static str = "overlay";
    const REBASES: bool = true;

    fn open() -> Result<Self> {
        let options = overlay::options()?;
        Ok(Overlay { options })
    }

    /// The root of a tree is shown as the topmost layer has it, so that it begins as the parent's.
    fn fill(&self, dirs: &SnapshotDirs, new: &Held, parent: Option<u64>) -> Result<()> {
        make_tree(new)?;
        let work = rustix::fs::mkdirat(new, WORK, Mode::RWXU).map_err(io::Error::from);
        work.during("make directory", WORK)?;
        match parent {
            Some(parent) => copy_attributes(tree(&dirs.hold(parent)?)?, tree(new)?),
            None => Ok(()),
        }
    }

    fn mount(&self, dirs: &SnapshotDirs, snapshot: &SnapshotRecord, below: &[u64]) -> Mount {
        let tree = |id: u64| dirs.path(id).join(TREE);
        let read_only = snapshot.kind == SnapshotKind::View;
        match below {
            [] => Mount::Bind {
                source: tree(snapshot.id),
                read_only,
            },
            [parent] if read_only => Mount::Bind {
                source: tree(*parent),
                read_only,
            },
            _ => Mount::Overlay {
                lower: below.iter().map(|id| tree(*id)).collect(),
                upper: (!read_only).then(|| tree(snapshot.id)),
                work: (!read_only).then(|| dirs.path(snapshot.id).join(WORK)),
                options: self.options.clone(),
            },
        }
    }
}

fn tree(held: &Held) -> Result<rustix::fd::OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let opened = rustix::fs::openat(held, TREE, flags, Mode::empty());
    opened
        .map_err(io::Error::from)
        .during("open directory", TREE)
}
