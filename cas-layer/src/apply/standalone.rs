//! Applies a layer without the layers below it. The effects of the layer on the layers below are
//! recorded now and applied later. Each effect is recorded with its path in the tree of the layer,
//! after the links of this tree are resolved.
//!
//! - If members are in a directory that no member describes, the layer *implies* the directory,
//!   which is created with default attributes. In the layers below, the same directory may have
//!   other attributes, or a link that leads elsewhere may be at its path.
//! - A whiteout hides a name, even if the layers below do not have the name. The directory of the
//!   whiteout is created, too. It is removed later if only whiteouts are in it and the layers below
//!   do not have it.
//! - A directory that replaces something that the layer hid or added before must show nothing of
//!   the layers below.
//!
//! A layer *needs its parents* if its effects depend on the layers below it:
//!
//! - The layer has a hard link to a file of the layers below.
//! - The layer removes a directory that it added itself.
//! - A path of the layer, with its links resolved, has `..` after a directory in which the layer
//!   has only whiteouts. The layers below decide whether this directory exists.
//!
//! A layer also needs its parents if a path leads through too many links, or if its effects take
//! more than [`MAX_RECORDED`] bytes. A layer that needs its parents must be applied on top of them.
//! Layers made by common tools rarely need their parents.

use cas_core::{Error, Result};

use super::Layer;
use super::dirs::Dir;
use super::path::push;
use super::seen::{Fact, Inode};

/// Maximum number of bytes that the recorded effects of one layer take.
const MAX_RECORDED: usize = 4 << 20;

/// The effects of a layer on the layers below it, which
/// [`Tree::apply_standalone`](super::Tree::apply_standalone) has recorded. When the layers below
/// exist, [`Tree::resolve_onto`](super::Tree::resolve_onto) applies the effects.
#[derive(Debug, Default)]
pub struct DeferredEffects {
    /// Directories that no member described when they were created, parents before children.
    pub(super) implied: Vec<Implied>,
    /// Hidden names.
    pub(super) hidden: Vec<Vec<u8>>,
    /// Directories that show nothing of the layers below.
    pub(super) opaque: Vec<Vec<u8>>,
}

/// A directory that the layer implies.
#[derive(Debug)]
pub(super) struct Implied {
    pub(super) path: Vec<u8>,
    inode: Inode,
    /// Whether it contains something of the layer. Otherwise it exists only for whiteouts.
    pub(super) needed: bool,
    /// Whether a later member describes it.
    pub(super) described: bool,
}

impl Implied {
    /// Returns a directory of a layer that an earlier process applied. The inode is only needed
    /// while a layer is applied.
    pub(super) fn saved(path: Vec<u8>, needed: bool, described: bool) -> Self {
        Implied {
            path,
            inode: Inode::default(),
            needed,
            described,
        }
    }
}

/// Records the effects of a layer while it is applied.
#[derive(Default)]
pub(super) struct Recorder {
    effects: DeferredEffects,
    bytes: usize,
    needs_parents: bool,
}

/// The origin of a directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    /// The directory existed already.
    Found,
    /// A member describes the directory, and there was nothing at its path.
    New,
    /// No member describes the directory, but something must be in it. There was nothing at its
    /// path.
    Implied,
    /// The directory replaced something else.
    Replaces,
}

impl Layer {
    /// Starts recording.
    pub(super) fn begin_standalone(&mut self) {
        self.standalone = Some(Recorder::default());
        let root = self.dirs.root();
        self.mark_kept(root.inode);
        self.record_implied(Vec::new(), root.inode);
    }

    /// Returns the recorded effects, or `None` if the layer needs its parents.
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

    /// Records that the layer needs its parents. Has no effect if the layer is not applied
    /// standalone.
    pub(super) fn require_parents(&mut self) {
        if let Some(recorder) = &mut self.standalone {
            recorder.needs_parents = true;
        }
    }

    /// Records that the layer needs its parents. If the layer is not applied standalone, fails with
    /// `missing`.
    pub(super) fn require_parents_or(&mut self, missing: impl FnOnce() -> Error) -> Result<()> {
        if self.standalone.is_none() {
            return Err(missing());
        }
        self.require_parents();
        Ok(())
    }

    /// Returns whether a directory of a standalone layer shows nothing of the layers below.
    pub(super) fn is_isolated(&self, dir: &Dir) -> bool {
        self.standalone.is_some() && self.seen.contains(&Fact::Purged(dir.inode))
    }

    /// Returns whether a directory of a standalone layer contains only whiteouts. It then exists
    /// only if the layers below have it.
    pub(super) fn is_only_for_whiteouts(&self, dir: &Dir) -> bool {
        self.standalone.is_some() && !self.seen.contains(&Fact::Kept(dir.inode))
    }

    /// Returns whether a standalone layer hides what the layers below may have at the name.
    pub(super) fn hides(&self, dir: &Dir, name: &[u8]) -> bool {
        self.standalone.is_some()
            && (self.is_isolated(dir) || self.seen.contains(&Fact::Hidden(dir.inode, name)))
    }

    /// Records what a directory, created as `name` in `dir`, means for the layers below.
    pub(super) fn record_directory(
        &mut self,
        dir: &Dir,
        name: &[u8],
        inode: Inode,
        origin: Origin,
    ) {
        if self.standalone.is_none() {
            return;
        }
        let isolated = self.is_isolated(dir);
        if isolated || origin == Origin::Replaces || self.hides(dir, name) {
            self.seen.insert(&Fact::Purged(inode));
            if !isolated {
                self.record(named(dir, name), |effects| &mut effects.opaque);
            }
        } else if origin == Origin::Implied {
            self.record_implied(named(dir, name), inode);
        }
    }

    /// Records that a directory shows nothing of the layers below.
    pub(super) fn record_opaque(&mut self, dir: &Dir) {
        if self.standalone.is_some() && !self.is_isolated(dir) {
            self.record(dir.path.clone(), |effects| &mut effects.opaque);
        }
    }

    /// Records that this layer hides a name that it does not have itself.
    pub(super) fn record_hidden(&mut self, dir: &Dir, name: &[u8]) {
        if self.standalone.is_some() && !self.hides(dir, name) {
            self.seen.insert(&Fact::Hidden(dir.inode, name));
            self.record(named(dir, name), |effects| &mut effects.hidden);
        }
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
}

/// Returns the path of a name in a directory.
fn named(dir: &Dir, name: &[u8]) -> Vec<u8> {
    let mut path = dir.path.clone();
    push(&mut path, name);
    path
}

#[cfg(test)]
mod tests {
    use testkit::archive::Tar;

    use crate::apply::Tree;
    use crate::tar::Reader;

    /// Whether the directory `c` exists depends on the layers below.
    #[test]
    fn a_layer_whose_paths_leave_a_directory_of_whiteouts_needs_its_parents() {
        let link = |tar: Tar| tar.symlink("b", "c/../q");
        let whiteout = || Tar::new().file("c/.wh.k", "");
        let cases = [
            (link(Tar::new()).file("b/.wh.x", ""), true),
            (link(Tar::new()).file("b/.wh..wh..opq", ""), true),
            (link(whiteout()).file("b/y", ""), true),
            (link(whiteout()).hardlink("y", "b/x"), true),
            (
                Tar::new()
                    .symlink("a", "c")
                    .symlink("b", "a/../b")
                    .file("b/.wh.x", ""),
                true,
            ),
            (link(Tar::new()).file("b/y", ""), false),
            (link(Tar::new().dir("c")).file("b/.wh.x", ""), false),
            (link(Tar::new().file("c/y", "")).file("b/.wh.x", ""), false),
            (whiteout().symlink("b", "c").file("b/.wh.x", ""), false),
        ];
        for (n, (tar, needs_parents)) in cases.into_iter().enumerate() {
            let archive = tar.end();
            let place = tempfile::tempdir().unwrap();
            let tree = Tree::open(place.path()).unwrap();
            let applied = tree.apply_standalone(&mut Reader::new(&archive[..]));
            let (_, effects) = applied.unwrap();
            assert_eq!(effects.is_none(), needs_parents, "case {n}");
        }
    }
}
