//! Finds the parents of members, and creates missing ones.

use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;

use cas_core::{Error, Result, limit};
use rustix::fs::{self, AtFlags, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use super::dirs::{DIRECTORY, Dir, LOOP};
use super::meta::own;
use super::path::{depth, push, split};
use super::remove::remove;
use super::seen::Fact;
use super::standalone::Origin;
use super::times::EPOCH;
use super::{Layer, os};

/// Maximum number of symbolic links that are followed to one parent, as in the kernel.
const LINKS: usize = 40;

const DIRECTORY_MODE: Mode = Mode::from_raw_mode(0o755);

impl Layer {
    /// Returns the parent directory for a member. Creates it if it does not exist.
    pub(super) fn parent(&mut self, path: &[u8]) -> Result<Rc<Dir>> {
        let dir = match self.dirs.find(path)? {
            Some(dir) => dir,
            None => self
                .make_directories(path, Purpose::Member)?
                .ok_or_else(|| Error::internal("a parent was not created"))?,
        };
        self.keep(&dir)?;
        dir.mark_changed();
        Ok(dir)
    }

    /// Records that a directory and its ancestors contain something of this layer.
    fn keep(&mut self, dir: &Dir) -> Result<()> {
        if dir.kept.replace(true) || !self.mark_kept(dir.inode) {
            return Ok(());
        }
        let root = self.dirs.root().inode;
        let mut inode = dir.inode;
        let mut above: Option<OwnedFd> = None;
        while inode != root {
            let fd = above.as_ref().unwrap_or(&dir.fd);
            let up = os(fs::openat(fd, "..", DIRECTORY, Mode::empty()))?;
            let stat = os(fs::fstat(&up))?;
            inode = (stat.st_dev, stat.st_ino);
            if !self.mark_kept(inode) {
                break;
            }
            above = Some(up);
        }
        Ok(())
    }

    /// Records one directory as kept. Returns `false` if it was already, and so were its ancestors.
    pub(super) fn mark_kept(&mut self, inode: super::seen::Inode) -> bool {
        let fact = Fact::Kept(inode);
        let new = !self.seen.contains(&fact);
        if new {
            self.seen.insert(&fact);
        }
        new
    }

    /// Walks to a directory, one name at a time, and creates what is missing, also behind links.
    /// Returns `None` if the path of a whiteout leads through a file of this layer or a name that
    /// it hides.
    pub(super) fn make_directories(
        &mut self,
        path: &[u8],
        purpose: Purpose,
    ) -> Result<Option<Rc<Dir>>> {
        let mut ahead: Vec<Vec<u8>> = names(path);
        let mut at = Vec::new();
        let mut dir = self.dirs.root();
        let mut links = 0;
        while let Some(name) = ahead.pop() {
            let next = if name == b".." {
                at.truncate(split(&at).0.len());
                self.real(&at)?
            } else {
                match self.step(&dir, &name, purpose)? {
                    Step::Nowhere => return Ok(None),
                    Step::Into(fd) => {
                        push(&mut at, &name);
                        self.dirs.handle(fd, dir.depth + 1)?
                    }
                    Step::Link(target) => {
                        links += 1;
                        if links > LINKS {
                            return Err(Error::corrupt(LOOP));
                        }
                        ahead.extend(names(&target));
                        if !target.starts_with(b"/") {
                            continue;
                        }
                        at.clear();
                        self.dirs.root()
                    }
                }
            };
            dir.restore_times()?;
            dir = next;
        }
        self.dirs.cache(path, &dir);
        Ok(Some(dir))
    }

    /// Makes one step: into a directory, perhaps a new one, or to a link to follow.
    fn step(&mut self, dir: &Rc<Dir>, name: &[u8], purpose: Purpose) -> Result<Step> {
        let found = match fs::statat(&dir.fd, name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => None,
            stat => Some(FileType::from_raw_mode(os(stat)?.st_mode)),
        };
        match found {
            Some(FileType::Directory) => {
                os(fs::openat(&dir.fd, name, DIRECTORY, Mode::empty())).map(Step::Into)
            }
            Some(FileType::Symlink) => {
                let target = os(fs::readlinkat(&dir.fd, name, Vec::new()))?;
                Ok(Step::Link(target.into_bytes()))
            }
            Some(_) if purpose == Purpose::Whiteout => Ok(Step::Nowhere),
            None if purpose == Purpose::Whiteout && self.hides(dir, name) => Ok(Step::Nowhere),
            Some(_) => {
                dir.mark_changed();
                remove(dir.fd.as_fd(), name)?;
                let origin = Origin::Replaces;
                self.make_implied(dir, name, origin, purpose)
                    .map(Step::Into)
            }
            None => self
                .make_implied(dir, name, Origin::Implied, purpose)
                .map(Step::Into),
        }
    }

    /// Creates a directory that no member has described.
    fn make_implied(
        &mut self,
        dir: &Rc<Dir>,
        name: &[u8],
        origin: Origin,
        purpose: Purpose,
    ) -> Result<OwnedFd> {
        self.implied += 1;
        if self.implied > limit::ENTRIES {
            return Err(Error::out_of_range(format!(
                "the layer implies more than the {} directories allowed",
                limit::ENTRIES
            )));
        }
        dir.deeper()?;
        if purpose == Purpose::Member {
            self.keep(dir)?;
        }
        dir.mark_changed();
        os(fs::mkdirat(&dir.fd, name, DIRECTORY_MODE))?;
        let fd = os(fs::openat(&dir.fd, name, DIRECTORY, Mode::empty()))?;
        let stat = os(fs::fstat(&fd))?;
        let (uid, gid) = (rustix::process::geteuid(), rustix::process::getegid());
        let mode = DIRECTORY_MODE.as_raw_mode();
        own(fd.as_fd(), &stat, uid.as_raw(), gid.as_raw(), mode)?;
        let inode = (stat.st_dev, stat.st_ino);
        self.record_directory(dir, name, inode, origin)?;
        if purpose == Purpose::Member {
            self.mark_kept(inode);
        }
        os(fs::futimens(&fd, &EPOCH))?;
        Ok(fd)
    }

    /// Opens a directory at a clean path without links.
    fn real(&self, path: &[u8]) -> Result<Rc<Dir>> {
        if path.is_empty() {
            return Ok(self.dirs.root());
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_SYMLINKS;
        let root = self.dirs.root();
        let fd = os(fs::openat2(&root.fd, path, flags, Mode::empty(), resolve))?;
        self.dirs.handle(fd, depth(path))
    }
}

/// Why a directory is needed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// To add a member to it.
    Member,
    /// For a whiteout. This alone is not a reason to keep the directory.
    Whiteout,
}

enum Step {
    Into(OwnedFd),
    Link(Vec<u8>),
    Nowhere,
}

/// Returns the names of a path in reverse order, ready to be popped.
fn names(path: &[u8]) -> Vec<Vec<u8>> {
    let names = path.split(|&byte| byte == b'/');
    let names = names.filter(|name| !matches!(*name, b"" | b"."));
    names.rev().map(<[u8]>::to_vec).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::apply::Tree;
    use crate::tar::Reader;

    #[test]
    fn as_many_directories_as_are_allowed_are_implied_and_no_more() {
        let temp = tempfile::tempdir().unwrap();
        let tree = Tree::open(temp.path()).unwrap();
        let mut layer = Layer::new(std::os::fd::AsFd::as_fd(&tree.root)).unwrap();
        layer.implied = limit::ENTRIES - 2;
        let mut apply = |name: &str| {
            let archive = testkit::archive::Tar::new().file(name, "").end();
            layer.read(&mut Reader::new(&archive[..]))
        };
        apply("a/b/file").unwrap();
        apply("a/b/other").unwrap();
        let error = apply("a/c/file").unwrap_err();
        assert_eq!(error.kind(), cas_core::ErrorKind::OutOfRange);
        assert!(error.to_string().contains("2000000 directories"), "{error}");
        assert!(!temp.path().join("a/c").exists());
    }
}
