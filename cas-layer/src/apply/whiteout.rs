//! Parses the names of whiteouts, and applies whiteouts to a tree: removes the files that they
//! hide, except those that the layer of the whiteout added.
//!
//! To apply an opaque whiteout, a directory is read at most once per layer: afterwards, everything
//! below the directory belongs to the layer of the whiteout.

use std::ffi::CStr;
use std::rc::Rc;

use cas_core::{Error, Result, limit};
use cas_host::calls;
use rustix::fs::{AtFlags, FileType, Mode, SeekFrom};
use rustix::io::Errno;

use super::dirs::{DIRECTORY, Dir};
use super::remove::too_deep;
use super::seen::Fact;
use super::walk::Purpose;
use super::{Layer, os};

/// The beginning of the last name of every whiteout.
const PREFIX: &[u8] = b".wh.";

/// A whiteout: what the last name of a member hides.
#[derive(Debug, PartialEq, Eq)]
pub enum Whiteout<'a> {
    /// The sibling with this name.
    Name(&'a [u8]),
    /// Everything that lower layers added below the directory of the whiteout.
    Opaque,
}

impl<'a> Whiteout<'a> {
    /// Parses the last name of a member's path. Returns `None` for an ordinary name.
    ///
    /// # Errors
    /// `Corrupt` for a whiteout that names nothing, `.` or `..`.
    pub fn parse(name: &'a [u8]) -> Result<Option<Self>> {
        match name.strip_prefix(PREFIX) {
            None => Ok(None),
            Some(b".wh..opq") => Ok(Some(Whiteout::Opaque)),
            Some(b"" | b"." | b"..") => Err(Error::corrupt(format!(
                "the whiteout \"{}\" does not name anything that can be removed; build the image \
                 again",
                name.escape_ascii()
            ))),
            Some(hidden) => Ok(Some(Whiteout::Name(hidden))),
        }
    }

    /// Returns the last name in the path of the member that is this whiteout.
    pub fn name(&self) -> Vec<u8> {
        match self {
            Whiteout::Opaque => b".wh..wh..opq".to_vec(),
            Whiteout::Name(hidden) => [PREFIX, hidden].concat(),
        }
    }

    /// Checks that a layer can contain a file with this name.
    ///
    /// # Errors
    /// `Unsupported` for a name that begins with `.wh.`, because readers of the layer would take
    /// the file for a whiteout.
    pub fn check_file(name: &[u8]) -> Result<()> {
        if name.starts_with(PREFIX) {
            return Err(Error::unsupported(
                "the name of a file begins with .wh., so readers of the layer would take it for a \
                 whiteout; rename the file",
            ));
        }
        Ok(())
    }
}

impl Layer {
    /// Applies a whiteout in the directory at the clean path `parent`.
    pub(super) fn apply_whiteout(&mut self, parent: &[u8], whiteout: &Whiteout<'_>) -> Result<()> {
        // There is nothing to hide below a file, or in a directory that does not exist.
        let Some(dir) = self.whiteout_directory(parent)? else {
            return Ok(());
        };
        dir.mark_changed();
        match whiteout {
            Whiteout::Opaque => {
                self.record_opaque(&dir);
                self.purge(&dir, limit::PATH_DEPTH)
            }
            Whiteout::Name(name) => self.hide(&dir, name, limit::PATH_DEPTH),
        }
    }

    /// Returns the directory of a whiteout, or `None` as [`Layer::directory`] does. For a
    /// standalone layer, the directory is created if it is absent.
    fn whiteout_directory(&mut self, path: &[u8]) -> Result<Option<Rc<Dir>>> {
        let purpose = match self.standalone {
            Some(_) => Purpose::Whiteout,
            None => Purpose::Lookup,
        };
        self.directory(path, purpose)
    }

    /// Removes what lower layers added at the name in `dir`.
    fn hide(&mut self, dir: &Dir, name: &[u8], levels: usize) -> Result<()> {
        let stat = match calls::statat(&dir.fd, name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => {
                self.record_hidden(dir, name);
                return Ok(());
            }
            Err(Errno::NOTDIR | Errno::NAMETOOLONG) => return Ok(()),
            stat => os(stat)?,
        };
        let child = (stat.st_dev, stat.st_ino);
        let is_dir = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
        if is_dir && self.seen.contains(&Fact::Kept(child)) {
            if self.seen.contains(&Fact::Purged(child)) {
                return Ok(());
            }
            let below = os(calls::openat(&dir.fd, name, DIRECTORY, Mode::empty()))?;
            let below = self.dirs.handle(below, dir.child(name)?)?;
            below.mark_changed();
            if !self.is_isolated(dir) {
                self.record_opaque(&below);
            }
            self.purge(&below, levels)?;
            return below.restore_times();
        }
        if !is_dir && self.seen.contains(&Fact::Added(dir.inode, name)) {
            return Ok(());
        }
        self.clear(dir, name)
    }

    /// Removes everything below `dir` that lower layers added. Needs one file descriptor per level.
    fn purge(&mut self, dir: &Dir, levels: usize) -> Result<()> {
        if self.seen.contains(&Fact::Purged(dir.inode)) {
            return Ok(());
        }
        self.seen.insert(&Fact::Purged(dir.inode));
        let levels = levels.checked_sub(1).ok_or_else(too_deep)?;
        os(calls::seek(&dir.fd, SeekFrom::Start(0)))?;
        let hide = |name: &CStr, _| Ok(self.hide(dir, name.to_bytes(), levels)?);
        Ok(calls::each_entry(&dir.fd, hide)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whiteouts_that_name_nothing() {
        fn parse(name: &[u8]) -> Option<Whiteout<'_>> {
            Whiteout::parse(name).ok().flatten()
        }
        for bad in [".wh.", ".wh..", ".wh..."] {
            assert!(Whiteout::parse(bad.as_bytes()).is_err(), "{bad}");
        }
        assert_eq!(parse(b".wh..wh..opq"), Some(Whiteout::Opaque));
        assert_eq!(parse(b".wh.x"), Some(Whiteout::Name(b"x")));
        assert_eq!(parse(b".whx"), None);
        for whiteout in [Whiteout::Opaque, Whiteout::Name(b".opq")] {
            let name = whiteout.name();
            assert_eq!(parse(&name), Some(whiteout));
        }
    }
}
