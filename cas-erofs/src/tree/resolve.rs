//! Finds the directory at a path. Follows symbolic links, and never leaves the tree.

use cas_core::{Error, Result, limit};
use cas_layer::apply::check_links;

use super::Tree;
use super::node::{Directory, Id, Kind, Node, ROOT};

/// Maximum number of paths whose directories are remembered.
const KNOWN: usize = 4096;

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
    /// Returns the directory at a path. If there is none, a lookup returns `None`; for a member,
    /// the directory is made.
    pub(super) fn directory(&mut self, path: &[u8], purpose: Purpose) -> Result<Option<Id>> {
        if let Some(&known) = self.known.get(path) {
            return Ok(Some(known));
        }
        let mut here = ROOT;
        let mut links = 0;
        // The names that are not walked yet, the next one last.
        let mut ahead: Vec<Box<[u8]>> = Vec::new();
        push_names(&mut ahead, path);
        while let Some(name) = ahead.pop() {
            self.cost.count_lookups(1)?;
            if &name[..] == b".." {
                here = self.directory_at(here).parent;
                continue;
            }
            let found = self.child(here, &name);
            here = match found.map(|id| (id, &self.node(id).kind)) {
                Some((id, Kind::Directory(_))) => id,
                Some((_, Kind::Symlink(target))) => {
                    links += 1;
                    check_links(links)?;
                    push_names(&mut ahead, target);
                    if target.first() == Some(&b'/') {
                        ROOT
                    } else {
                        here
                    }
                }
                _ if purpose == Purpose::Lookup => return Ok(None),
                _ => {
                    self.unlink(here, &name);
                    self.make_implied(here, &name)?
                }
            };
        }
        if self.known.len() >= KNOWN {
            self.known.clear();
        }
        self.known.insert(path.to_vec(), here);
        Ok(Some(here))
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

/// Pushes the names of a path, last name first, so that the first name is popped first.
fn push_names(ahead: &mut Vec<Box<[u8]>>, path: &[u8]) {
    let names = path.rsplit(|&byte| byte == b'/');
    let names = names.filter(|name| !matches!(*name, b"" | b"."));
    ahead.extend(names.map(Box::from));
}
