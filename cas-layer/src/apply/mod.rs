//! Applying the members of a layer to a directory tree.
//!
//! Paths are resolved by the kernel inside the tree (`openat2` with `RESOLVE_IN_ROOT`), so a
//! layer may write through its own links and never outside; the last component is never
//! followed. The tree must belong to the caller isolated while a layer is applied.
//!
//! - Owner, then mode, then xattrs, then times. Modes do not depend on the umask.
//! - An existing path is replaced unless both are directories. A directory changed only by
//!   members below it keeps its times.
//! - Missing parents are made 0755, owned by the caller, with the time 1970, so that two
//!   applications give equal trees. A parent that is no directory is replaced by one.
//! - Whiteouts never touch members of the same layer, in whatever order they come.
//! - Never set: `security.selinux`, `system.nfs4_acl`, and `*.overlay.*` xattrs, which would be
//!   control data of an overlay. The device 0:0 is skipped, for it would be a whiteout there.
//! - The files of a layer may take the free space less a twentieth.
//! - Times that the file system cannot hold are clamped by the kernel.

mod body;
mod denied;
mod dirs;
mod member;
mod meta;
mod parents;
mod path;
mod remove;
mod resolve;
mod seen;
mod standalone;
mod times;
mod whiteout;

use std::io::BufRead;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use cas_core::{Context, Error, Result};
use rustix::fs::{Mode, OFlags};

use crate::tar::Reader;
use dirs::Dirs;
use seen::Seen;
use standalone::Recorder;

pub use standalone::DeferredEffects;

/// A directory tree that layers are applied to.
#[derive(Debug)]
pub struct Tree {
    root: OwnedFd,
}

/// Most different warnings kept of one layer.
const WARNINGS: usize = 32;

/// What applying a layer did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    /// Members read, whiteouts included.
    pub entries: u64,
    /// Bytes written into files.
    pub bytes: u64,
    /// What was odd or left out, each once; the first 32 of applying, then those of the archive.
    pub warnings: Vec<String>,
}

impl Tree {
    /// Opens the directory at `path`.
    ///
    /// # Errors
    /// Those of the file system; `FailedPrecondition` if it is no directory.
    pub fn open(path: &Path) -> Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = os(rustix::fs::open(path, flags, Mode::empty()));
        Ok(Tree {
            root: root.during("open tree", path.display())?,
        })
    }

    /// The tree below an open directory.
    ///
    /// # Errors
    /// Those of the file system; `FailedPrecondition` if it is no directory.
    pub fn at(directory: BorrowedFd<'_>) -> Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = os(rustix::fs::openat(directory, ".", flags, Mode::empty()))?;
        Ok(Tree { root })
    }

    /// Applies all members that `reader` gives, and reads it to the end.
    ///
    /// # Errors
    /// Those of the reader; `Corrupt` for a member that no tree can hold; those of the file
    /// system. The tree is then part old, part new, and should be removed.
    pub fn apply<R: BufRead>(&self, reader: &mut Reader<R>) -> Result<Applied> {
        let mut layer = Layer::new(self.root.as_fd())?;
        layer.read(reader)?;
        Ok(layer.applied)
    }

    /// The same of a layer isolated, into an empty tree, which is then its part of an overlay; what
    /// it takes for granted of the layers below, to be [settled](Tree::resolve_onto) when they are
    /// there. Nothing where the layer means something only on top of them: the tree is then good
    /// for nothing, and the reader somewhere in the middle.
    ///
    /// # Errors
    /// As [`Tree::apply`].
    pub fn apply_standalone<R: BufRead>(
        &self,
        reader: &mut Reader<R>,
    ) -> Result<(Applied, Option<DeferredEffects>)> {
        let mut layer = Layer::new(self.root.as_fd())?;
        layer.begin_standalone()?;
        layer.read(reader)?;
        let effects = layer.take_effects();
        Ok((layer.applied, effects))
    }

    /// Writes everything of the tree's file system to the device.
    ///
    /// # Errors
    /// Those of the file system; the tree must then be taken as lost.
    pub fn sync(&self) -> Result<()> {
        os(rustix::fs::syncfs(&self.root)).during("sync", "the tree")
    }
}

/// The state while one layer is applied.
struct Layer {
    dirs: Dirs,
    seen: Seen,
    /// Parents made without a member of their own.
    implied: u64,
    /// Bytes that files may take.
    budget: u64,
    /// What is noted where the layers below are not there.
    standalone: Option<Recorder>,
    applied: Applied,
}

impl Layer {
    fn new(root: BorrowedFd<'_>) -> Result<Self> {
        Ok(Layer {
            dirs: Dirs::new(root)?,
            seen: Seen::default(),
            implied: 0,
            budget: write_budget(root)?,
            standalone: None,
            applied: Applied::default(),
        })
    }

    /// Places all members, as far as that can be done.
    fn read<R: BufRead>(&mut self, reader: &mut Reader<R>) -> Result<()> {
        while let Some(entry) = reader.next_entry()? {
            let applied = self.apply_member(&entry, reader);
            applied.during("apply", entry.path.escape_ascii())?;
            if self.needs_parents() {
                return Ok(());
            }
        }
        self.dirs.flush()?;
        let warnings = reader.warnings();
        self.applied.warnings.extend_from_slice(warnings);
        Ok(())
    }

    fn warn(&mut self, warning: &str) {
        let warnings = &mut self.applied.warnings;
        if warnings.len() < WARNINGS && !warnings.iter().any(|known| known == warning) {
            warnings.push(warning.to_owned());
        }
    }
}

/// Free bytes of the file system, less a twentieth; no bound where it does not tell.
fn write_budget(root: BorrowedFd<'_>) -> Result<u64> {
    let stat = os(rustix::fs::fstatvfs(root))?;
    let free = stat.f_bavail.saturating_mul(stat.f_frsize);
    Ok(match stat.f_blocks {
        0 => u64::MAX,
        _ => free - free / 20,
    })
}

/// The result of a system call as one of ours.
fn os<T>(result: rustix::io::Result<T>) -> Result<T> {
    result.map_err(|errno| Error::from(std::io::Error::from(errno)))
}
