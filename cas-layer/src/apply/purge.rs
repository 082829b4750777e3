//! Whiteouts on a plain tree: what is hidden is removed, unless this layer placed it.
//!
//! A directory is read for this at most once in a layer: afterwards all below it is of this
//! layer, and stays so.

use std::os::fd::{AsFd, BorrowedFd};

use cas_core::{Result, limit};
use rustix::fs::{self, AtFlags, FileType, Mode};
use rustix::io::Errno;

use super::dirs::DIRECTORY;
use super::path::Whiteout;
use super::remove::{Removed, remove, too_deep};
use super::seen::{Fact, Inode};
use super::{Layer, os};

impl Layer {
    /// Does what a whiteout in the directory at the clean path `parent` asks for.
    pub(super) fn whiteout(&mut self, parent: &[u8], whiteout: &Whiteout<'_>) -> Result<()> {
        // Below a file, or where nothing is, nothing can be hidden.
        let Some(dir) = self.dirs.find(parent)? else {
            return Ok(());
        };
        dir.touch();
        match whiteout {
            Whiteout::Opaque => self.purge(dir.fd.as_fd(), dir.inode, limit::PATH_DEPTH),
            Whiteout::Name(name) => self.hide(dir.fd.as_fd(), dir.inode, name, limit::PATH_DEPTH),
        }
    }

    /// Removes the name in `dir` as far as lower layers put it there.
    fn hide(&mut self, dir: BorrowedFd<'_>, inode: Inode, name: &[u8], depth: usize) -> Result<()> {
        let stat = match fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT | Errno::NOTDIR | Errno::NAMETOOLONG) => return Ok(()),
            stat => os(stat)?,
        };
        let child = (stat.st_dev, stat.st_ino);
        let is_dir = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
        if is_dir && self.seen.contains(&Fact::Kept(child)) {
            if self.seen.contains(&Fact::Purged(child)) {
                return Ok(());
            }
            let below = os(fs::openat(dir, name, DIRECTORY, Mode::empty()))?;
            let below = self.dirs.visit(below)?;
            below.touch();
            self.purge(below.fd.as_fd(), child, depth)?;
            return below.settle();
        }
        if !is_dir && self.seen.contains(&Fact::Placed(inode, name)) {
            return Ok(());
        }
        if remove(dir, name)? == Removed::Way {
            self.dirs.forget();
        }
        Ok(())
    }

    /// Removes everything below `dir` that lower layers put there.
    fn purge(&mut self, dir: BorrowedFd<'_>, inode: Inode, depth: usize) -> Result<()> {
        if self.seen.contains(&Fact::Purged(inode)) {
            return Ok(());
        }
        let depth = depth.checked_sub(1).ok_or_else(too_deep)?;
        for child in os(fs::Dir::read_from(dir))? {
            let child = os(child)?;
            let name = child.file_name().to_bytes();
            if !matches!(name, b"." | b"..") {
                self.hide(dir, inode, name, depth)?;
            }
        }
        self.seen.insert(&Fact::Purged(inode));
        Ok(())
    }
}
