//! Open directories: a small cache that also preserves directory times.
//!
//! Every change in a directory updates its times. Therefore the times are read once, when the
//! directory is opened, and are restored once, when it leaves the cache. Two paths of one
//! directory share one handle. Otherwise the second handle would read changed times.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::rc::Rc;

use cas_core::{Error, Result, limit};
use rustix::fs::{self, Mode, OFlags, ResolveFlags, Timestamps};
use rustix::io::Errno;

use super::os;
use super::path::{clean, depth};
use super::seen::Inode;
use super::times::times;

/// Maximum number of directories that stay open between two members.
const OPEN: usize = 128;

/// The error for a path with more links than the kernel follows.
pub(super) const LOOP: &str = "more than 40 symbolic links lead to the parent";

/// Flags that open a directory without following a link.
pub(super) const DIRECTORY: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

/// An open directory.
pub(super) struct Dir {
    pub(super) fd: OwnedFd,
    pub(super) inode: Inode,
    /// Number of names from the root of the tree to the directory, after links are resolved.
    pub(super) depth: usize,
    times: RefCell<Timestamps>,
    changed: Cell<bool>,
    /// Whether the directory and its ancestors are recorded as kept.
    pub(super) kept: Cell<bool>,
    /// Whether it has a default access list, which new members inherit.
    pub(super) default_acl: Cell<bool>,
}

impl Dir {
    fn new(fd: OwnedFd, depth: usize) -> Result<Self> {
        let stat = os(fs::fstat(&fd))?;
        Ok(Dir {
            inode: (stat.st_dev, stat.st_ino),
            depth,
            times: RefCell::new(times(&stat)),
            changed: Cell::new(false),
            kept: Cell::new(false),
            default_acl: Cell::new(has_default_acl(fd.as_fd())),
            fd,
        })
    }

    /// Returns the depth of a subdirectory. Without a limit, links to links would make a tree that
    /// is too deep to be removed.
    ///
    /// # Errors
    /// `OutOfRange` for more than [`limit::PATH_DEPTH`].
    pub(super) fn deeper(&self) -> Result<usize> {
        if self.depth == limit::PATH_DEPTH {
            return Err(too_deep());
        }
        Ok(self.depth + 1)
    }

    /// Marks the directory as changed, so that its times are restored later.
    pub(super) fn mark_changed(&self) {
        self.changed.set(true);
    }

    /// Sets the times that the directory has in the end.
    pub(super) fn set_times(&self, times: Timestamps) {
        self.times.replace(times);
        self.changed.set(true);
    }

    /// Restores the times if the directory was changed.
    pub(super) fn restore_times(&self) -> Result<()> {
        if !self.changed.take() {
            return Ok(());
        }
        match fs::futimens(&self.fd, &self.times.borrow()) {
            // A directory that an overlay no longer shows cannot be changed.
            Err(_) if self.is_gone() => Ok(()),
            set => os(set),
        }
    }

    /// Returns whether the directory was removed, according to the kernel.
    fn is_gone(&self) -> bool {
        let link = format!("/proc/self/fd/{}", self.fd.as_raw_fd());
        fs::readlink(link, Vec::new()).is_ok_and(|path| path.as_bytes().ends_with(b" (deleted)"))
    }

    /// Reads again what members inherit, after the xattrs changed.
    pub(super) fn refresh(&self) {
        self.default_acl.set(has_default_acl(self.fd.as_fd()));
    }
}

fn has_default_acl(fd: BorrowedFd<'_>) -> bool {
    let mut none = [0u8; 0];
    fs::fgetxattr(fd, "system.posix_acl_default", &mut none[..]).is_ok_and(|size| size > 0)
}

fn too_deep() -> Error {
    Error::out_of_range(format!(
        "links lead more than {} directories or {} bytes deep",
        limit::PATH_DEPTH,
        limit::PATH
    ))
}

/// The open directories of one tree.
pub(super) struct Dirs {
    root: Rc<Dir>,
    by_path: HashMap<Vec<u8>, Rc<Dir>>,
    by_inode: HashMap<Inode, Rc<Dir>>,
}

impl Dirs {
    pub(super) fn new(root: BorrowedFd<'_>) -> Result<Self> {
        let root = os(fs::openat(root, ".", DIRECTORY, Mode::empty()))?;
        let root = Rc::new(Dir::new(root, 0)?);
        let by_inode = HashMap::from([(root.inode, root.clone())]);
        Ok(Dirs {
            root,
            by_path: HashMap::new(),
            by_inode,
        })
    }

    pub(super) fn root(&self) -> Rc<Dir> {
        self.root.clone()
    }

    /// Opens the directory at a clean path. Returns `None` if there is none.
    pub(super) fn find(&mut self, path: &[u8]) -> Result<Option<Rc<Dir>>> {
        if path.is_empty() {
            return Ok(Some(self.root()));
        }
        if let Some(dir) = self.by_path.get(path) {
            return Ok(Some(dir.clone()));
        }
        let open = |links| {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let resolve = ResolveFlags::IN_ROOT | links;
            fs::openat2(&self.root.fd, path, flags, Mode::empty(), resolve)
        };
        let found = match open(ResolveFlags::NO_SYMLINKS) {
            Ok(fd) => Ok((fd, depth(path))),
            Err(Errno::LOOP) => match open(ResolveFlags::NO_MAGICLINKS) {
                Ok(fd) => self.path(fd.as_fd()).map(|path| Ok((fd, depth(&path))))?,
                Err(errno) => Err(errno),
            },
            Err(errno) => Err(errno),
        };
        match found {
            Ok((fd, depth)) => self.insert(path, fd, depth).map(Some),
            Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
            Err(Errno::LOOP) => Err(Error::corrupt(LOOP)),
            Err(errno) => os(Err(errno)),
        }
    }

    /// Returns the clean path of an open directory, links resolved. To walk up instead would cost
    /// up to 512 calls for each member of a hostile layer.
    ///
    /// # Errors
    /// `OutOfRange` for a path of more than [`limit::PATH`] bytes.
    pub(super) fn path(&self, fd: BorrowedFd<'_>) -> Result<Vec<u8>> {
        let whole = |fd: BorrowedFd<'_>| {
            let link = format!("/proc/self/fd/{}", fd.as_raw_fd());
            match fs::readlink(link, Vec::new()) {
                Ok(path) => Ok(path.into_bytes()),
                Err(Errno::NAMETOOLONG) => Err(too_deep()),
                Err(errno) => os(Err(errno)),
            }
        };
        let (path, root) = (whole(fd)?, whole(self.root.fd.as_fd())?);
        Ok(clean(path.strip_prefix(&root[..]).unwrap_or(&path)))
    }

    /// Adds an open directory to the cache, under its path.
    pub(super) fn insert(&mut self, path: &[u8], fd: OwnedFd, depth: usize) -> Result<Rc<Dir>> {
        let dir = self.handle(fd, depth)?;
        self.cache(path, &dir);
        Ok(dir)
    }

    /// Adds the handle of a directory to the cache, under its path.
    pub(super) fn cache(&mut self, path: &[u8], dir: &Rc<Dir>) {
        self.by_inode
            .entry(dir.inode)
            .or_insert_with(|| dir.clone());
        self.by_path.insert(path.to_vec(), dir.clone());
    }

    /// Returns the cached handle of a directory, or a new one, whose times the caller must restore.
    pub(super) fn handle(&self, fd: OwnedFd, depth: usize) -> Result<Rc<Dir>> {
        let dir = Dir::new(fd, depth)?;
        match self.by_inode.get(&dir.inode) {
            Some(held) => Ok(held.clone()),
            None => Ok(Rc::new(dir)),
        }
    }

    /// Forgets all paths, after a directory was removed or a link replaced.
    pub(super) fn forget_paths(&mut self) {
        self.by_path.clear();
    }

    /// Closes the cached directories if there are too many. No directory may be in use.
    pub(super) fn close_excess(&mut self) -> Result<()> {
        match self.by_inode.len() {
            ..OPEN => Ok(()),
            _ => self.flush(),
        }
    }

    /// Restores the times of all changed directories and closes them.
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
