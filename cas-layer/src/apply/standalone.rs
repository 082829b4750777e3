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
//! [`MAX_RECORDED`]. It must then be applied on top of them. Layers that tools make seldom are.

use std::os::fd::AsFd;

use cas_core::{Error, ErrorKind, Result};

use super::Layer;
use super::dirs::Dir;
use super::path::push;
use super::seen::{Fact, Inode};

/// Most bytes of paths that are noted of one layer.
const MAX_RECORDED: usize = 4 << 20;

/// What a layer that was applied apart takes for granted of those below it.
#[derive(Debug, Default)]
pub struct DeferredEffects {
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
    /// Whether something of the layer is in it; else it is there for whiteouts isolated.
    pub(super) needed: bool,
    /// Whether a later member says how it is.
    pub(super) described: bool,
}

impl DeferredEffects {
    /// Whether nothing is, so that any layers may be below.
    pub fn is_empty(&self) -> bool {
        self.implied.is_empty() && self.hidden.is_empty() && self.opaque.is_empty()
    }
}

/// The notes of a layer that is being applied apart.
#[derive(Default)]
pub(super) struct Recorder {
    effects: DeferredEffects,
    bytes: usize,
    needs_parents: bool,
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
    pub(super) fn begin_standalone(&mut self) -> Result<()> {
        self.standalone = Some(Recorder::default());
        let root = self.dirs.root();
        self.mark_kept(root.inode);
        self.record_implied(Vec::new(), root.inode);
        Ok(())
    }

    /// The notes, unless the layer is tangled.
    pub(super) fn take_effects(&mut self) -> Option<DeferredEffects> {
        let Recorder {
            mut effects,
            needs_parents,
            ..
        } = self.standalone.take()?;
        for implied in &mut effects.implied {
            implied.needed = self.seen.contains(&Fact::Kept(implied.inode));
            implied.described = self.seen.contains(&Fact::Described(implied.inode));
        }
        (!needs_parents).then_some(effects)
    }

    pub(super) fn needs_parents(&self) -> bool {
        self.standalone
            .as_ref()
            .is_some_and(|recorder| recorder.needs_parents)
    }

    /// Gives the layer up, where it is applied apart.
    pub(super) fn require_parents(&mut self) {
        if let Some(recorder) = &mut self.standalone {
            recorder.needs_parents = true;
        }
    }

    /// The same where something is missing, which is an error otherwise.
    pub(super) fn require_parents_or(&mut self, missing: impl FnOnce() -> Error) -> Result<()> {
        if self.standalone.is_none() {
            return Err(missing());
        }
        self.require_parents();
        Ok(())
    }

    /// Whether nothing of the layers below can show in a directory of a layer applied apart.
    pub(super) fn is_isolated(&self, dir: &Dir) -> bool {
        self.standalone.is_some() && self.seen.contains(&Fact::Purged(dir.inode))
    }

    /// Whether the layer hides what the layers below may have at the name.
    pub(super) fn hides(&self, dir: &Dir, name: &[u8]) -> bool {
        self.standalone.is_some()
            && (self.is_isolated(dir) || self.seen.contains(&Fact::Hidden(dir.inode, name)))
    }

    /// Notes what a directory made as `name` in `dir` may have below it.
    pub(super) fn record_directory(
        &mut self,
        dir: &Dir,
        name: &[u8],
        inode: Inode,
        origin: Origin,
    ) -> Result<()> {
        if self.standalone.is_none() {
            return Ok(());
        }
        let isolated = self.is_isolated(dir);
        if isolated || origin == Origin::Replaces || self.hides(dir, name) {
            self.seen.insert(&Fact::Purged(inode));
            if !isolated && let Some(path) = self.named(dir, name)? {
                self.record(path, |effects| &mut effects.opaque);
            }
        } else if origin == Origin::Implied
            && let Some(path) = self.named(dir, name)?
        {
            self.record_implied(path, inode);
        }
        Ok(())
    }

    /// Notes that nothing from below is shown in a directory.
    pub(super) fn record_opaque(&mut self, dir: &Dir) -> Result<()> {
        if self.standalone.is_some()
            && !self.is_isolated(dir)
            && let Some(path) = self.path(dir)?
        {
            self.record(path, |effects| &mut effects.opaque);
        }
        Ok(())
    }

    /// Notes that a name is hidden, at which this layer has nothing.
    pub(super) fn record_hidden(&mut self, dir: &Dir, name: &[u8]) -> Result<()> {
        if self.standalone.is_some()
            && !self.hides(dir, name)
            && let Some(path) = self.named(dir, name)?
        {
            self.seen.insert(&Fact::Hidden(dir.inode, name));
            self.record(path, |effects| &mut effects.hidden);
        }
        Ok(())
    }

    fn record_implied(&mut self, path: Vec<u8>, inode: Inode) {
        let implied = Implied {
            path,
            inode,
            needed: false,
            described: false,
        };
        if let Some(recorder) = self.room_for(implied.path.len()) {
            recorder.effects.implied.push(implied);
        }
    }

    fn record(&mut self, path: Vec<u8>, list: fn(&mut DeferredEffects) -> &mut Vec<Vec<u8>>) {
        if let Some(recorder) = self.room_for(path.len()) {
            list(&mut recorder.effects).push(path);
        }
    }

    fn room_for(&mut self, bytes: usize) -> Option<&mut Recorder> {
        let recorder = self.standalone.as_mut()?;
        recorder.bytes += bytes + size_of::<Implied>();
        recorder.needs_parents |= recorder.bytes > MAX_RECORDED;
        Some(recorder)
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
                self.require_parents();
                Ok(None)
            }
            path => path.map(Some),
        }
    }
}
