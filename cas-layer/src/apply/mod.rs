//! Applies the members of a layer to a directory tree.
//!
//! Paths and links are resolved inside the tree, so a layer may write through links of the tree,
//! but never outside it. If the last component of a path is a link, the link is not followed. No
//! other process may change the tree while a layer is applied.
//!
//! - Metadata is set in this order: owner, mode, xattrs, times. [Without
//!   privileges](Tree::into_rootless), a file without write permission for its owner gets its final
//!   mode after its xattrs, and [`Tree::close_directories`] sets the final modes of directories.
//!   Modes do not depend on the umask.
//! - A member replaces what exists at its path, unless both are directories. A directory that
//!   changes only because of members below it keeps its times.
//! - Missing parents of members are created with mode 0755, the user of this process as owner, and
//!   the Unix epoch as time, so that applying a layer twice gives equal trees. A parent that is
//!   neither a directory nor a link is replaced by a directory.
//! - A whiteout never affects members of its own layer, whether they come before or after it.
//! - Some xattrs are neither set nor removed: `security.selinux` and `system.nfs4_acl`, which
//!   belong to the host; `trusted.overlay.*` and `user.overlay.*`, which would control an overlay;
//!   and `user.cas.*`, which would mark a directory as unfinished.
//! - Left out with a warning: the xattrs that the item above lists; xattrs that the file cannot
//!   have, such as `user.*` of a link; xattrs that the file system does not support or has no room
//!   for; xattrs that only the superuser may set, if this process may not; devices, if this process
//!   may not create them, and the hard links to them; and the character device 0:0, which would be
//!   a whiteout in an overlay.
//! - Without privileges, the xattr `user.rootlesscontainers` keeps the owner of a file, and more is
//!   left out with a warning: an xattr with this name that a layer contains; the owners that the
//!   xattr cannot keep, such as those of links and pipes; POSIX ACLs that the kernel refuses; all
//!   devices, and the hard links to them.
//! - The files of a layer may use at most 95 % of the space that is free before the layer is
//!   applied.
//! - The kernel clamps times that the file system cannot store.

mod action;
mod body;
mod capability;
mod cost;
mod denied;
mod dirs;
mod left_out;
mod member;
mod meta;
mod owners;
mod parents;
pub mod path;
#[cfg(test)]
mod plant;
mod remove;
mod resolve;
mod rootless;
mod saved_effects;
mod seen;
mod standalone;
mod times;
mod walk;
mod whiteout;

use std::io::BufRead;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;

use cas_core::{Context, Error, Result};
use cas_host::calls;
use rustix::fs::{Mode, OFlags};

use crate::Warnings;
use crate::tar::{Excerpt, Reader};
use dirs::Dirs;
use left_out::Count;
use rootless::Rootless;
use seen::Seen;
use standalone::Recorder;

pub use action::{Action, WHITEOUT_DEVICE};
pub use capability::{CAPABILITY, check_capability};
pub use cost::{Cost, ImageCost, check_links};
pub(crate) use meta::is_of_host;
pub use meta::is_set;
pub use owners::give_to_owners;
pub use standalone::DeferredEffects;
pub use whiteout::Whiteout;

/// A directory tree that layers are applied to.
#[derive(Debug)]
pub struct Tree {
    root: OwnedFd,
    private: bool,
    /// Present if layers are applied without privileges.
    rootless: Option<Arc<Rootless>>,
    cost: ImageCost,
}

/// The result of applying a layer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    /// Number of members read, including whiteouts.
    pub entries: u64,
    /// Number of bytes written to files.
    pub bytes: u64,
    /// A list of warnings about members, for example about attributes that were left out, followed
    /// by a list of warnings about the archive. Each of the two lists has at most
    /// [`limit::WARNINGS`](cas_core::limit::WARNINGS) different warnings. If there were more, one
    /// further warning at the end of the list states how many are not listed. A warning that is not
    /// listed is counted each time it occurred.
    pub warnings: Vec<String>,
}

impl Tree {
    /// Returns the tree of the directory `path`.
    ///
    /// # Errors
    /// `FailedPrecondition` if `path` is not a directory; errors of the file system.
    pub fn open(path: &Path) -> Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = os(cas_host::calls::open(path, flags, Mode::empty()));
        Ok(Tree {
            root: root.during("open tree", path.display())?,
            private: false,
            rootless: None,
            cost: ImageCost::default(),
        })
    }

    /// Returns the tree with a root directory that stays closed to other users. If a layer
    /// describes the root directory, [`apply`](Self::apply) keeps the owner of the directory and
    /// sets the mode 0700 and no POSIX ACL, whatever the layer states.
    #[must_use]
    pub fn into_private(self) -> Self {
        Tree {
            private: true,
            ..self
        }
    }

    /// Returns the tree for layers of the image whose cost is `cost`. By default, all layers that
    /// are applied to one tree count as one image.
    #[must_use]
    pub fn with_cost(self, cost: ImageCost) -> Self {
        Tree { cost, ..self }
    }

    /// Returns the tree of an open directory.
    ///
    /// # Errors
    /// `FailedPrecondition` if `directory` is not a directory; errors of the file system.
    pub fn at(directory: BorrowedFd<'_>) -> Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = os(cas_host::calls::openat(
            directory,
            ".",
            flags,
            Mode::empty(),
        ))?;
        Ok(Tree {
            root,
            private: false,
            rootless: None,
            cost: ImageCost::default(),
        })
    }

    /// Checks that the tree is empty. A file that another program has put there would become a part
    /// of a layer.
    ///
    /// # Errors
    /// `FailedPrecondition` if something is in the tree; errors of the file system.
    pub fn check_empty(&self) -> Result<()> {
        match calls::list(&self.root)?.first() {
            None => Ok(()),
            Some((name, _)) => Err(Error::precondition(format!(
                "expected an empty directory for the layer, found {:?} in it; find out which \
                 program writes there, and repeat the command",
                name.to_bytes().escape_ascii().to_string()
            ))),
        }
    }

    /// Applies all members of `reader`, and reads it to the end. Returns what was done.
    ///
    /// # Errors
    /// `Corrupt` for a member that cannot be applied; `OutOfRange` if a bound of
    /// [`limit`](cas_core::limit) is exceeded; `Full` if a file does not fit into the free space;
    /// `FailedPrecondition` or `Denied` if an owner cannot be set; errors of the reader and of the
    /// file system. After an error, the tree contains a part of the layer, and should be removed.
    pub fn apply<R: BufRead>(&self, reader: &mut Reader<R>) -> Result<Applied> {
        let mut layer = Layer::new(self)?;
        layer.read(reader)?;
        Ok(layer.applied)
    }

    /// Applies a layer without the layers below it, into an empty tree, which becomes the layer's
    /// directory in an overlay.
    ///
    /// Returns what was done, and the effects on the layers below. The effects are deferred: pass
    /// them to [`Tree::resolve_onto`] when the layers below exist. The effects are `None` if the
    /// layer can only be applied on top of the layers below it. The tree then has only a part of
    /// the layer and should be removed, and the reader is not at its end.
    ///
    /// # Errors
    /// As [`Tree::apply`].
    pub fn apply_standalone<R: BufRead>(
        &self,
        reader: &mut Reader<R>,
    ) -> Result<(Applied, Option<DeferredEffects>)> {
        let mut layer = Layer::new(self)?;
        layer.begin_standalone();
        layer.read(reader)?;
        let effects = layer.take_effects();
        Ok((layer.applied, effects))
    }

    /// Syncs the whole file system of the tree.
    ///
    /// # Errors
    /// Errors of the file system. After an error, the tree must be considered lost.
    pub fn sync(&self) -> Result<()> {
        os(cas_host::calls::syncfs(&self.root)).during("sync", "the tree")
    }
}

impl AsFd for Tree {
    /// Returns the root directory.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }
}

/// The state while one layer is applied.
struct Layer {
    dirs: Dirs,
    seen: Seen,
    cost: Cost,
    /// Number of bytes that files may still take.
    budget: u64,
    /// Whether the root directory stays closed to others.
    private: bool,
    /// Present if the layer is applied without privileges.
    rootless: Option<Arc<Rootless>>,
    /// Devices that are left out.
    devices: Count,
    /// Members whose owner is not kept.
    owners: Count,
    /// Records effects on the layers below, if the layer is applied without them.
    standalone: Option<Recorder>,
    warnings: Warnings,
    applied: Applied,
}

impl Layer {
    fn new(tree: &Tree) -> Result<Self> {
        let root = tree.root.as_fd();
        Ok(Layer {
            dirs: Dirs::new(root)?,
            seen: Seen::default(),
            cost: Cost::of_layer(tree.cost.clone()),
            budget: write_budget(root)?,
            private: tree.private,
            rootless: tree.rootless.clone(),
            devices: Count::default(),
            owners: Count::default(),
            standalone: None,
            warnings: Warnings::default(),
            applied: Applied::default(),
        })
    }

    /// Applies all members. Stops early if the layer can only be applied on top of the layers below
    /// it.
    fn read<R: BufRead>(&mut self, reader: &mut Reader<R>) -> Result<()> {
        while let Some(mut entry) = reader.next_entry()? {
            if let Some(rootless) = self.rootless.clone()
                && rootless.adopt(&mut entry)
            {
                self.warn_of_unset(owners::OWNER);
            }
            let applied = self.apply_member(&entry, reader);
            // If the member failed, it may succeed on top of the layers below.
            if self.needs_parents() {
                return Ok(());
            }
            applied.during("apply", Excerpt(&entry.path))?;
        }
        self.applied.entries = self.cost.entries();
        self.dirs.flush()?;
        self.warn_of_left_out();
        self.applied.warnings = self.warnings.list();
        self.applied.warnings.extend(reader.warnings());
        Ok(())
    }

    fn warn(&mut self, warning: &str) {
        self.warnings.add(warning);
    }
}

/// Returns 95 % of the free bytes of the file system, or `u64::MAX` if they are unknown.
fn write_budget(root: BorrowedFd<'_>) -> Result<u64> {
    let stat = os(cas_host::calls::fstatvfs(root))?;
    let free = stat.f_bavail.saturating_mul(stat.f_frsize);
    Ok(match stat.f_blocks {
        0 => u64::MAX,
        _ => free - free / 20,
    })
}

/// Converts the result of a system call.
pub(crate) fn os<T>(result: rustix::io::Result<T>) -> Result<T> {
    result.map_err(|errno| Error::from(std::io::Error::from(errno)))
}
