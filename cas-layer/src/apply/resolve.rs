//! Completes a standalone tree, once the layers below it exist, for use in an overlay.

use std::collections::HashSet;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use cas_core::{Context, Error, ErrorKind, Result};
use cas_host::{calls, copy_attributes, open_beneath, overlay};
use rustix::fs::{AtFlags, FileType, OFlags};
use rustix::io::Errno;

use super::dirs::DIRECTORY;
use super::path::split;
use super::standalone::DeferredEffects;
use super::times::times;
use super::{Tree, os};
use crate::tar::Excerpt;

impl Tree {
    /// Completes a [standalone](Tree::apply_standalone) tree for use in an overlay. `below` is a
    /// tree that shows all layers below the layer, or `None` if the layer is the lowest one.
    /// Directories that no member of the layer describes get the owner, mode, xattrs and times that
    /// they have in `below`. A name that the layer hides gets an overlay whiteout if the overlay
    /// would otherwise show it. Directories that were created only for whiteouts are removed if
    /// `below` does not have them.
    ///
    /// A layer may have members or whiteouts in a directory that no member describes, and this
    /// directory may be a link in `below`. In this case, returns `false`: the layer must be applied
    /// on top of `below`, and the tree should be removed.
    ///
    /// # Errors
    /// Errors of the file systems.
    pub fn resolve_onto(&self, below: Option<&Tree>, effects: &DeferredEffects) -> Result<bool> {
        let resolver = Resolver {
            tree: self.root.as_fd(),
            below: below.map(|below| below.root.as_fd()),
            effects,
        };
        resolver
            .resolve()
            .during("combine", "a layer with the layers below it")
    }
}

struct Resolver<'a> {
    tree: BorrowedFd<'a>,
    below: Option<BorrowedFd<'a>>,
    effects: &'a DeferredEffects,
}

impl Resolver<'_> {
    fn resolve(&self) -> Result<bool> {
        for implied in &self.effects.implied {
            if self.below(&implied.path)? == Some(FileType::Symlink) {
                return Ok(false);
            }
        }
        for path in &self.effects.opaque {
            if path.is_empty() {
                self.clear_root()?;
            } else {
                self.make_opaque(path)?;
            }
        }
        self.hide()?;
        // Children first, because only an empty directory can be removed.
        for implied in self.effects.implied.iter().rev() {
            match self.below {
                Some(below) if self.below(&implied.path)? == Some(FileType::Directory) => {
                    if !implied.described
                        && let Some(from) = directory(below, &implied.path)?
                        && let Some(to) = directory(self.tree, &implied.path)?
                    {
                        copy_attributes(from, to)?;
                    }
                }
                _ if implied.needed => {}
                _ => self.change(&implied.path, |parent, name| {
                    os(calls::unlinkat(parent, name, AtFlags::REMOVEDIR))
                })?,
            }
        }
        Ok(true)
    }

    fn make_opaque(&self, path: &[u8]) -> Result<()> {
        if self.below(path)? == Some(FileType::Directory)
            && let Some(dir) = directory(self.tree, path)?
        {
            overlay::make_opaque(&dir)?;
        }
        Ok(())
    }

    /// Hides everything at the root of the layers below, one name at a time, because overlayfs
    /// always merges root directories.
    fn clear_root(&self) -> Result<()> {
        let Some(below) = self.below else {
            return Ok(());
        };
        for (name, _) in calls::list(below)? {
            let name = name.to_bytes();
            match overlay::hide(&self.tree, name) {
                Err(error) if error.kind() == ErrorKind::AlreadyExists => self.make_opaque(name)?,
                hidden => hidden?,
            }
        }
        Ok(())
    }

    /// Creates whiteouts for hidden names that the layers below would otherwise show.
    fn hide(&self) -> Result<()> {
        let opaque: HashSet<&[u8]> = self.effects.opaque.iter().map(Vec::as_slice).collect();
        for path in &self.effects.hidden {
            let mut above = split(path).0;
            let mut shown = !opaque.contains(above);
            while shown && !above.is_empty() {
                above = split(above).0;
                shown = !opaque.contains(above);
            }
            if shown && self.below(path)?.is_some() {
                self.change(path, |parent, name| overlay::hide(&parent, name))?;
            }
        }
        Ok(())
    }

    /// Returns the type of what the layers below have at a path, or `None` if they have nothing.
    fn below(&self, path: &[u8]) -> Result<Option<FileType>> {
        let Some(below) = self.below else {
            return Ok(None);
        };
        let Some(found) = open(below, path, OFlags::PATH | OFlags::NOFOLLOW)? else {
            return Ok(None);
        };
        Ok(Some(FileType::from_raw_mode(
            os(calls::fstat(&found))?.st_mode,
        )))
    }

    /// Changes something in the parent of a path, and preserves the times of the parent.
    fn change(
        &self,
        path: &[u8],
        change: impl FnOnce(BorrowedFd<'_>, &[u8]) -> Result<()>,
    ) -> Result<()> {
        let (parent, name) = split(path);
        let Some(parent) = directory(self.tree, parent)? else {
            return Ok(());
        };
        let before = times(&os(calls::fstat(&parent))?);
        match change(parent.as_fd(), name) {
            // Something of this layer is there, and hides what is below.
            Err(error) if error.kind() == ErrorKind::AlreadyExists => return Ok(()),
            changed => changed?,
        }
        os(calls::futimens(&parent, &before))
    }
}

/// Opens the directory at a path. Returns `None` if there is none, or if a name of the path is a
/// link.
fn directory(root: BorrowedFd<'_>, path: &[u8]) -> Result<Option<OwnedFd>> {
    open(root, path, DIRECTORY)
}

fn open(root: BorrowedFd<'_>, path: &[u8], flags: OFlags) -> Result<Option<OwnedFd>> {
    let path = if path.is_empty() { b"." } else { path };
    match open_beneath(root, path, flags) {
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(None),
        opened => opened
            .map(Some)
            .map_err(|errno| Error::from(std::io::Error::from(errno)).within(Excerpt(path))),
    }
}
