//! Open directories: a small cache that also preserves directory times.
//!
//! Every change in a directory updates its times. Therefore the times are read once, when the
//! directory is opened. If the directory was changed, they are restored before it is closed. Two
//! paths of one directory share one handle. Otherwise the second handle would read changed times.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;

use cas_core::{Error, Result, limit};
use cas_host::{calls, open_beneath};
use rustix::fs::{Mode, OFlags, Timestamps};

use super::os;
use super::path::{depth, push};
use super::seen::Inode;
use super::times::times;

/// Maximum number of directories that stay open between two members.
const OPEN: usize = 128;

/// Maximum number of links whose directories are remembered.
const LINKS: usize = 1024;

/// Flags that open a directory without following a link.
pub(super) const DIRECTORY: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

/// An open directory.
pub(super) struct Dir {
    pub(super) fd: OwnedFd,
    pub(super) inode: Inode,
    /// The clean path from the root of the tree, without links.
    pub(super) path: Vec<u8>,
    times: RefCell<Timestamps>,
    changed: Cell<bool>,
    /// Whether it is recorded that the directory and its ancestors contain something of this layer.
    pub(super) kept: Cell<bool>,
    /// Whether the directory has a default access list, which new members inherit.
    pub(super) default_acl: Cell<bool>,
}

impl Dir {
    fn new(fd: OwnedFd, path: Vec<u8>) -> Result<Self> {
        let stat = os(calls::fstat(&fd))?;
        Ok(Dir {
            inode: (stat.st_dev, stat.st_ino),
            path,
            times: RefCell::new(times(&stat)),
            changed: Cell::new(false),
            kept: Cell::new(false),
            default_acl: Cell::new(has_default_acl(fd.as_fd())),
            fd,
        })
    }

    /// Returns the path of a subdirectory, without links. The length of the path is limited,
    /// because members behind links could otherwise make a tree that is too deep to be removed.
    ///
    /// # Errors
    /// `OutOfRange` for more than [`limit::PATH_DEPTH`] names or [`limit::PATH`] bytes.
    pub(super) fn child(&self, name: &[u8]) -> Result<Vec<u8>> {
        let mut path = self.path.clone();
        push(&mut path, name);
        if path.len() > limit::PATH || depth(&path) > limit::PATH_DEPTH {
            return Err(Error::out_of_range(format!(
                "symbolic links lead to a path of more than {} names or {} bytes; build the image \
                 again without these links",
                limit::PATH_DEPTH,
                limit::PATH
            )));
        }
        Ok(path)
    }

    /// Marks the directory as changed, so that its times are restored later.
    pub(super) fn mark_changed(&self) {
        self.changed.set(true);
    }

    /// Sets the times that [`Self::restore_times`] gives to the directory.
    pub(super) fn set_times(&self, times: Timestamps) {
        self.times.replace(times);
        self.changed.set(true);
    }

    /// Restores the times if the directory was changed.
    pub(super) fn restore_times(&self) -> Result<()> {
        if !self.changed.take() {
            return Ok(());
        }
        os(calls::futimens(&self.fd, &self.times.borrow()))
    }

    /// Reads again whether there is a default access list, after the xattrs changed.
    pub(super) fn refresh(&self) {
        self.default_acl.set(has_default_acl(self.fd.as_fd()));
    }
}

fn has_default_acl(fd: BorrowedFd<'_>) -> bool {
    let mut none = [0u8; 0];
    calls::fgetxattr(fd, "system.posix_acl_default", &mut none[..]).is_ok_and(|size| size > 0)
}

/// Where a path leads.
#[derive(Clone)]
pub(super) struct Found<T> {
    pub(super) to: T,
    /// Number of links on the way.
    pub(super) links: usize,
}

/// The open directories of one tree, and where its links lead.
pub(super) struct Dirs {
    root: Rc<Dir>,
    /// By the path that led to them, with or without links.
    by_path: HashMap<Vec<u8>, Found<Rc<Dir>>>,
    by_inode: HashMap<Inode, Rc<Dir>>,
    /// The path of the directory that a link leads to, by the path of the link. Both are without
    /// links.
    links: HashMap<Vec<u8>, Found<Vec<u8>>>,
}

impl Dirs {
    pub(super) fn new(root: BorrowedFd<'_>) -> Result<Self> {
        let root = os(calls::openat(root, ".", DIRECTORY, Mode::empty()))?;
        let root = Rc::new(Dir::new(root, Vec::new())?);
        let by_inode = HashMap::from([(root.inode, root.clone())]);
        Ok(Dirs {
            root,
            by_path: HashMap::new(),
            by_inode,
            links: HashMap::new(),
        })
    }

    pub(super) fn root(&self) -> Rc<Dir> {
        self.root.clone()
    }

    /// Returns the directory at a path, or `None` if it is not cached.
    pub(super) fn cached(&self, path: &[u8]) -> Option<Found<Rc<Dir>>> {
        if path.is_empty() {
            let to = self.root();
            return Some(Found { to, links: 0 });
        }
        self.by_path.get(path).cloned()
    }

    /// Opens a directory that is not cached yet, at a clean path without links. Returns its handle.
    pub(super) fn open(&mut self, path: &[u8]) -> Result<Rc<Dir>> {
        let fd = os(open_beneath(&self.root.fd, path, DIRECTORY))?;
        let dir = self.handle(fd, path.to_vec())?;
        self.cache_on_the_way(&dir);
        Ok(dir)
    }

    /// Adds an open directory to the cache, under its path without links. Returns its handle.
    pub(super) fn insert(&mut self, fd: OwnedFd, path: Vec<u8>) -> Result<Rc<Dir>> {
        let dir = self.handle(fd, path)?;
        self.cache(&dir.path, 0, &dir);
        Ok(dir)
    }

    /// Adds the handle of a directory to the cache, under the path that led to it.
    pub(super) fn cache(&mut self, path: &[u8], links: usize, dir: &Rc<Dir>) {
        self.by_inode
            .entry(dir.inode)
            .or_insert_with(|| dir.clone());
        let to = dir.clone();
        self.by_path.insert(path.to_vec(), Found { to, links });
    }

    /// Adds to the cache a directory that a path leads through, unless the cache is full. One path
    /// may lead through more directories than a process may open.
    pub(super) fn cache_on_the_way(&mut self, dir: &Rc<Dir>) {
        if self.by_inode.len() < OPEN {
            self.cache(&dir.path, 0, dir);
        }
    }

    /// Returns the cached handle of a directory, or a new handle. The caller must cache a new
    /// handle, or call [`Dir::restore_times`] on it.
    pub(super) fn handle(&self, fd: OwnedFd, path: Vec<u8>) -> Result<Rc<Dir>> {
        let dir = Dir::new(fd, path)?;
        match self.by_inode.get(&dir.inode) {
            Some(held) => Ok(held.clone()),
            None => Ok(Rc::new(dir)),
        }
    }

    /// Returns where a link leads, or `None` if [`Self::remember_link`] has not stored that.
    pub(super) fn link(&self, path: &[u8]) -> Option<Found<Vec<u8>>> {
        self.links.get(path).cloned()
    }

    /// Remembers where a link leads.
    pub(super) fn remember_link(&mut self, path: Vec<u8>, links: usize, to: &Dir) {
        if self.links.len() >= LINKS {
            self.links.clear();
        }
        let to = to.path.clone();
        self.links.insert(path, Found { to, links });
    }

    /// Forgets all paths, after a link was removed.
    pub(super) fn forget_paths(&mut self) {
        self.by_path.clear();
        self.links.clear();
    }

    /// Forgets all paths, and closes the directories of the tree that was removed at `name` in
    /// `dir`. Their times must not be restored. If the times of a removed directory are set, an
    /// overlay copies this directory from the layers below again, and replaces an empty directory
    /// that has the same name now.
    pub(super) fn forget_tree(&mut self, dir: &Dir, name: &[u8]) {
        self.forget_paths();
        let mut removed = dir.path.clone();
        push(&mut removed, name);
        let is_removed = |path: &[u8]| {
            let rest = path.strip_prefix(&removed[..]);
            rest.is_some_and(|rest| matches!(rest.first(), None | Some(b'/')))
        };
        self.by_inode.retain(|_, open| !is_removed(&open.path));
    }

    /// Closes the cached directories if there are too many. No directory may be in use.
    pub(super) fn close_excess(&mut self) -> Result<()> {
        match self.by_inode.len() {
            ..OPEN => Ok(()),
            _ => self.flush(),
        }
    }

    /// Restores the times of all changed directories, and closes all directories but the root.
    pub(super) fn flush(&mut self) -> Result<()> {
        self.by_path.clear();
        for dir in self.by_inode.values() {
            dir.restore_times()?;
        }
        let root = self.root.clone();
        self.by_inode.retain(|&inode, _| inode == root.inode);
        Ok(())
    }
}
