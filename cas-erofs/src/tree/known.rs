//! Directories that were found while a layer is applied, so that a path or a link is not resolved
//! again for every member.

use std::collections::HashMap;

use super::node::{Id, ROOT};

/// Maximum number of paths whose directories are remembered.
const PATHS: usize = 4096;

/// Maximum number of links whose directories are remembered.
const LINKS: usize = 1024;

/// Where a path leads.
#[derive(Clone, Copy)]
pub(super) struct Found {
    pub(super) directory: Id,
    /// Number of links on the way.
    pub(super) links: usize,
}

impl Found {
    pub(super) const ROOT: Found = Found {
        directory: ROOT,
        links: 0,
    };
}

/// The directories that paths and links lead to.
#[derive(Default)]
pub(super) struct Known {
    /// By clean paths, which may lead through links.
    paths: HashMap<Vec<u8>, Found>,
    /// By the directory of a link and the link itself. A link with several names may lead to
    /// another directory from each of them.
    links: HashMap<(Id, Id), Found>,
}

impl Known {
    /// Returns where a clean path leads, or `None` if that is not remembered.
    pub(super) fn path(&self, path: &[u8]) -> Option<Found> {
        if path.is_empty() {
            return Some(Found::ROOT);
        }
        self.paths.get(path).copied()
    }

    pub(super) fn remember_path(&mut self, path: &[u8], found: Found) {
        if self.paths.len() >= PATHS {
            self.paths.clear();
        }
        self.paths.insert(path.to_vec(), found);
    }

    /// Returns where a link in a directory leads, or `None` if that is not remembered.
    pub(super) fn link(&self, directory: Id, link: Id) -> Option<Found> {
        self.links.get(&(directory, link)).copied()
    }

    pub(super) fn remember_link(&mut self, directory: Id, link: Id, found: Found) {
        if self.links.len() >= LINKS {
            self.links.clear();
        }
        self.links.insert((directory, link), found);
    }

    /// Forgets everything, because a directory or a name of a link was removed, and paths may now
    /// lead elsewhere.
    pub(super) fn forget(&mut self) {
        self.paths.clear();
        self.links.clear();
    }
}
