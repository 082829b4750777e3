//! Finds the directory at a path. Follows symbolic links, and never leaves the tree.

use cas_core::{Error, Result, limit};
use cas_layer::apply::check_links;
use cas_layer::apply::path::split;

use super::Tree;
use super::known::Found;
use super::node::{Directory, Id, Kind, Node, ROOT};

/// Why a directory is needed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// To find something in it.
    Lookup,
    /// To add a member to it. Missing directories are made, even at the targets of links. Anything
    /// that is neither a directory nor a link is replaced by a directory.
    Member,
}

impl Tree {
    /// Returns the directory at a clean path. If there is none, a lookup returns `None`; for a
    /// member, the directory is made.
    pub(super) fn directory(&mut self, path: &[u8], purpose: Purpose) -> Result<Option<Id>> {
        if let Some(known) = self.known.path(path) {
            return Ok(Some(known.directory));
        }
        let (above, name) = split(path);
        let (from, rest) = match self.known.path(above) {
            Some(above) => (above, name),
            None => (Found::ROOT, path),
        };
        let found = self.walk(from, rest, purpose)?;
        if let Some(found) = found {
            self.known.remember_path(path, found);
        }
        Ok(found.map(|found| found.directory))
    }

    /// Walks from a directory along a path. Returns the directory there, or `None` as
    /// [`Tree::directory`] does.
    fn walk(&mut self, from: Found, path: &[u8], purpose: Purpose) -> Result<Option<Found>> {
        let mut here = from;
        for name in names(path) {
            self.cost.count_lookups(1)?;
            if name == b".." {
                here.directory = self.directory_at(here.directory).parent;
                continue;
            }
            let found = self.child(here.directory, name);
            match found.map(|id| (id, &self.node(id).kind)) {
                Some((id, Kind::Directory(_))) => here.directory = id,
                Some((id, Kind::Symlink(_))) => match self.follow(here, id, purpose)? {
                    Some(target) => here = target,
                    None => return Ok(None),
                },
                _ if purpose == Purpose::Lookup => return Ok(None),
                _ => {
                    self.unlink(here.directory, name);
                    here.directory = self.make_implied(here.directory, name)?;
                }
            }
        }
        Ok(Some(here))
    }

    /// Walks to the directory that a link leads to. Returns it, or `None` as [`Tree::directory`]
    /// does.
    fn follow(&mut self, from: Found, link: Id, purpose: Purpose) -> Result<Option<Found>> {
        let parent = from.directory;
        if let Some(known) = self.known.link(parent, link) {
            let links = from.links + known.links;
            check_links(links)?;
            return Ok(Some(Found { links, ..known }));
        }
        let Kind::Symlink(target) = &self.node(link).kind else {
            unreachable!("only links are followed");
        };
        let target = target.clone();
        let links = from.links + 1;
        check_links(links)?;
        let directory = match target.first() {
            Some(b'/') => ROOT,
            _ => parent,
        };
        let found = self.walk(Found { directory, links }, &target, purpose)?;
        if let Some(found) = found {
            let links = found.links - from.links;
            self.known
                .remember_link(parent, link, Found { links, ..found });
        }
        Ok(found)
    }

    fn make_implied(&mut self, parent: Id, name: &[u8]) -> Result<Id> {
        self.cost.count_implied(1)?;
        self.count_bytes(name.len())?;
        let id = self.make_directory(parent, name)?;
        self.keep(id);
        Ok(id)
    }

    /// Makes a directory that no member describes yet. Returns its identity.
    pub(super) fn make_directory(&mut self, parent: Id, name: &[u8]) -> Result<Id> {
        let depth = self.directory_at(parent).depth + 1;
        if depth > limit::PATH_DEPTH || name.len() > limit::COMPONENT {
            return Err(Error::out_of_range(format!(
                "a directory has {depth} names in its path and {} bytes in the last name; at most \
                 {} names and {} bytes are allowed; build the image with shorter paths",
                name.len(),
                limit::PATH_DEPTH,
                limit::COMPONENT
            )));
        }
        let id = self.insert(Node::implied(Directory::new(parent, depth)))?;
        self.link(parent, name, id);
        Ok(id)
    }

    /// Records that a directory, and so each directory above it, contains something of this layer.
    pub(super) fn keep(&mut self, directory: Id) {
        let layer = self.layer;
        let mut id = directory;
        loop {
            let directory = self.directory_mut(id);
            if directory.kept == layer {
                return;
            }
            directory.kept = layer;
            if id == ROOT {
                return;
            }
            id = directory.parent;
        }
    }
}

/// Returns the names of a path.
fn names(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    let names = path.split(|&byte| byte == b'/');
    names.filter(|name| !matches!(*name, b"" | b"."))
}
