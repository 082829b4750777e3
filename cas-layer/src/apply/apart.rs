//! A layer applied without those below it: what it takes for granted of them is noted, by the
//! real paths of its own tree.
//!
//! - A directory that the layer only implies is made plainly; below, it may be there with other
//!   attributes, or be a link that leads elsewhere.
//! - A whiteout hides what may not be there. The directory that it stands in is made as well, and
//!   goes again if nothing needs it.
//! - A directory in the place of what the layer hid, or had placed otherwise before, shows
//!   nothing of the layers below.
//!
//! What cannot be known without the layers below makes the layer *tangled*: a hard link to
//! something of theirs, a directory of its own that it takes away again, more notes than
//! [`NOTES`]. It must then be applied on top of them. Layers that tools make seldom are.

use std::os::fd::AsFd;

use cas_core::{Error, ErrorKind, Result};

use super::Layer;
use super::dirs::Dir;
use super::path::push;
use super::seen::{Fact, Inode};

/// Most bytes of paths that are noted of one layer.
const NOTES: usize = 4 << 20;

/// What a layer that was applied apart takes for granted of those below it.
#[derive(Debug, Default)]
pub struct Assumed {
    /// Directories that no member asked for when they were made, parents before children.
    pub(super) implied: Vec<Implied>,
    /// Names that are hidden.
    pub(super) hidden: Vec<Vec<u8>>,
    /// Directories in which nothing from below is shown.
    pub(super) opaque: Vec<Vec<u8>>,
}

/// A directory that the layer implies.
#[derive(Debug)]
pub(super) struct Implied {
    pub(super) path: Vec<u8>,
    inode: Inode,
    /// Whether something of the layer is in it; else it is there for whiteouts alone.
    pub(super) needed: bool,
    /// Whether a later member says how it is.
    pub(super) described: bool,
}

impl Assumed {
    /// Whether nothing is, so that any layers may be below.
    pub fn is_empty(&self) -> bool {
        self.implied.is_empty() && self.hidden.is_empty() && self.opaque.is_empty()
    }
}

/// The notes of a layer that is being applied apart.
#[derive(Default)]
pub(super) struct Apart {
    assumed: Assumed,
    bytes: usize,
    tangled: bool,
}

/// Where a directory comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    /// It was there.
    Found,
    /// A member asked for it, and nothing was there.
    New,
    /// Something must be in it, and nothing was there.
    Implied,
    /// It took the place of something else.
    Replaces,
}

impl Layer {
    /// Takes notes from now on.
    pub(super) fn begin_apart(&mut self) -> Result<()> {
        self.apart = Some(Apart::default());
        let root = self.dirs.root();
        self.note_kept(root.inode);
        self.note_implied(Vec::new(), root.inode);
        Ok(())
    }

    /// The notes, unless the layer is tangled.
    pub(super) fn assumed(&mut self) -> Option<Assumed> {
        let Apart {
            mut assumed,
            tangled,
            ..
        } = self.apart.take()?;
        for implied in &mut assumed.implied {
            implied.needed = self.seen.contains(&Fact::Kept(implied.inode));
            implied.described = self.seen.contains(&Fact::Described(implied.inode));
        }
        (!tangled).then_some(assumed)
    }

    pub(super) fn is_tangled(&self) -> bool {
        self.apart.as_ref().is_some_and(|apart| apart.tangled)
    }

    /// Gives the layer up, where it is applied apart.
    pub(super) fn tangle(&mut self) {
        if let Some(apart) = &mut self.apart {
            apart.tangled = true;
        }
    }

    /// The same where something is missing, which is an error otherwise.
    pub(super) fn tangle_or(&mut self, missing: impl FnOnce() -> Error) -> Result<()> {
        if self.apart.is_none() {
            return Err(missing());
        }
        self.tangle();
        Ok(())
    }

    /// Whether nothing of the layers below can show in a directory of a layer applied apart.
    pub(super) fn is_alone(&self, dir: &Dir) -> bool {
        self.apart.is_some() && self.seen.contains(&Fact::Purged(dir.inode))
    }

    /// Whether the layer hides what the layers below may have at the name.
    pub(super) fn hides(&self, dir: &Dir, name: &[u8]) -> bool {
        self.apart.is_some()
            && (self.is_alone(dir) || self.seen.contains(&Fact::Hidden(dir.inode, name)))
    }

    /// Notes what a directory made as `name` in `dir` may have below it.
    pub(super) fn begin_directory(
        &mut self,
        dir: &Dir,
        name: &[u8],
        inode: Inode,
        origin: Origin,
    ) -> Result<()> {
        if self.apart.is_none() {
            return Ok(());
        }
        let alone = self.is_alone(dir);
        if alone || origin == Origin::Replaces || self.hides(dir, name) {
            self.seen.insert(&Fact::Purged(inode));
            if !alone && let Some(path) = self.named(dir, name)? {
                self.note(path, |assumed| &mut assumed.opaque);
            }
        } else if origin == Origin::Implied
            && let Some(path) = self.named(dir, name)?
        {
            self.note_implied(path, inode);
        }
        Ok(())
    }

    /// Notes that nothing from below is shown in a directory.
    pub(super) fn note_opaque(&mut self, dir: &Dir) -> Result<()> {
        if self.apart.is_some()
            && !self.is_alone(dir)
            && let Some(path) = self.path(dir)?
        {
            self.note(path, |assumed| &mut assumed.opaque);
        }
        Ok(())
    }

    /// Notes that a name is hidden, at which this layer has nothing.
    pub(super) fn note_hidden(&mut self, dir: &Dir, name: &[u8]) -> Result<()> {
        if self.apart.is_some()
            && !self.hides(dir, name)
            && let Some(path) = self.named(dir, name)?
        {
            self.seen.insert(&Fact::Hidden(dir.inode, name));
            self.note(path, |assumed| &mut assumed.hidden);
        }
        Ok(())
    }

    fn note_implied(&mut self, path: Vec<u8>, inode: Inode) {
        let implied = Implied {
            path,
            inode,
            needed: false,
            described: false,
        };
        if let Some(apart) = self.room_for(implied.path.len()) {
            apart.assumed.implied.push(implied);
        }
    }

    fn note(&mut self, path: Vec<u8>, list: fn(&mut Assumed) -> &mut Vec<Vec<u8>>) {
        if let Some(apart) = self.room_for(path.len()) {
            list(&mut apart.assumed).push(path);
        }
    }

    fn room_for(&mut self, bytes: usize) -> Option<&mut Apart> {
        let apart = self.apart.as_mut()?;
        apart.bytes += bytes + size_of::<Implied>();
        apart.tangled |= apart.bytes > NOTES;
        Some(apart)
    }

    fn named(&mut self, dir: &Dir, name: &[u8]) -> Result<Option<Vec<u8>>> {
        let path = self.path(dir)?;
        Ok(path.map(|mut path| {
            push(&mut path, name);
            path
        }))
    }

    /// The real path of a directory; nothing where it is too long to be noted.
    fn path(&mut self, dir: &Dir) -> Result<Option<Vec<u8>>> {
        match self.dirs.path(dir.fd.as_fd()) {
            Err(error) if error.kind() == ErrorKind::OutOfRange => {
                self.tangle();
                Ok(None)
            }
            path => path.map(Some),
        }
    }
}
