//! Creates the missing parents of members, and records which directories contain something of the
//! layer.

use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;

use cas_core::{Error, Result};
use cas_host::calls;
use rustix::fs::Mode;

use super::dirs::{DIRECTORY, Dir};
use super::meta::own;
use super::seen::Fact;
use super::standalone::Origin;
use super::times::EPOCH;
use super::walk::Purpose;
use super::{Layer, os};

const DIRECTORY_MODE: Mode = Mode::from_raw_mode(0o755);

impl Layer {
    /// Returns the parent directory for a member. Creates it if it does not exist.
    pub(super) fn parent(&mut self, path: &[u8]) -> Result<Rc<Dir>> {
        let dir = self.directory(path, Purpose::Member)?;
        let dir = dir.ok_or_else(|| {
            Error::internal("a parent directory was not created; please report it")
        })?;
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
            let up = os(calls::openat(fd, "..", DIRECTORY, Mode::empty()))?;
            let stat = os(calls::fstat(&up))?;
            inode = (stat.st_dev, stat.st_ino);
            if !self.mark_kept(inode) {
                break;
            }
            above = Some(up);
        }
        Ok(())
    }

    /// Records that one directory contains something of this layer. Returns `false` if that was
    /// recorded before. In that case, it was also recorded before for the ancestors of the
    /// directory.
    pub(super) fn mark_kept(&mut self, inode: super::seen::Inode) -> bool {
        let fact = Fact::Kept(inode);
        let new = !self.seen.contains(&fact);
        if new {
            self.seen.insert(&fact);
        }
        new
    }

    /// Creates a directory that no member has described. Returns its handle.
    pub(super) fn make_implied(
        &mut self,
        dir: &Rc<Dir>,
        name: &[u8],
        origin: Origin,
        purpose: Purpose,
    ) -> Result<Rc<Dir>> {
        let path = dir.child(name)?;
        if purpose == Purpose::Member {
            self.keep(dir)?;
        }
        dir.mark_changed();
        os(calls::mkdirat(&dir.fd, name, DIRECTORY_MODE))?;
        let fd = os(calls::openat(&dir.fd, name, DIRECTORY, Mode::empty()))?;
        let stat = os(calls::fstat(&fd))?;
        let (uid, gid) = (rustix::process::geteuid(), rustix::process::getegid());
        let inode = (stat.st_dev, stat.st_ino);
        let mode = self.mode_for_now(inode, DIRECTORY_MODE.as_raw_mode())?;
        own(fd.as_fd(), &stat, uid.as_raw(), gid.as_raw(), mode)?;
        self.record_directory(dir, name, inode, origin);
        if purpose == Purpose::Member {
            self.mark_kept(inode);
        }
        os(calls::futimens(&fd, &EPOCH))?;
        self.dirs.handle(fd, path)
    }
}

#[cfg(test)]
mod tests {
    use cas_core::limit;

    use super::*;
    use crate::apply::Tree;
    use crate::tar::Reader;

    #[test]
    fn as_many_directories_as_are_allowed_are_implied_and_no_more() {
        let temp = tempfile::tempdir().unwrap();
        let tree = Tree::open(temp.path()).unwrap();
        let mut layer = Layer::new(&tree).unwrap();
        // With what the first member allows, two more directories may be implied.
        tree.cost
            .add(0, limit::IMPLIED + limit::IMPLIED_BY_ENTRY - 2);
        let mut apply = |name: &str| {
            let archive = testkit::archive::Tar::new().file(name, "").end();
            layer.read(&mut Reader::new(&archive[..]))
        };
        apply("a/b/file").unwrap();
        let deep = (0..limit::IMPLIED_BY_ENTRY + 1).map(|name| format!("{name}/"));
        let deep: String = deep.collect();
        let error = apply(&format!("c/{deep}file")).unwrap_err();
        assert_eq!(error.kind(), cas_core::ErrorKind::OutOfRange);
        assert!(error.to_string().contains("at most 32800"), "{error}");
        assert!(!temp.path().join("c").exists());
        // The layers of an image count together.
        let mut next = Layer::new(&tree).unwrap();
        let archive = testkit::archive::Tar::new().file(format!("d/{deep}file"), "");
        let archive = archive.end();
        let error = next.read(&mut Reader::new(&archive[..])).unwrap_err();
        assert!(error.to_string().contains("at most 32816"), "{error}");
    }
}
