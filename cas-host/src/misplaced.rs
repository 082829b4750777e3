//! Finds entries that have another type than this program gives them, such as a directory in place
//! of a file, and moves them out of the way.

use std::fmt;
use std::io;
use std::path::Path;

use cas_core::Error;
use cas_core::check::{Finding, Problem};
use rustix::fs::{AtFlags, FileType, FlockOperation};
use rustix::io::Errno;

use crate::{Dir, calls};

/// A name in a directory, and the type of the entry that this program makes there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place<'a> {
    /// A file.
    File(&'a str),
    /// A file that a user may move elsewhere and replace by a symbolic link to it.
    MovableFile(&'a str),
    /// A directory.
    Directory(&'a str),
    /// A directory that a user may move elsewhere and replace by a symbolic link to it.
    MovableDirectory(&'a str),
}

/// The types of a misplaced entry: the type that was expected, and the type that was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Misplaced {
    expected: FileType,
    found: FileType,
}

impl Place<'_> {
    /// Returns the name.
    pub fn name(&self) -> &str {
        match self {
            Place::File(name) | Place::MovableFile(name) => name,
            Place::Directory(name) | Place::MovableDirectory(name) => name,
        }
    }

    /// Returns the expected type and the found type if the entry with this name in `dir` has the
    /// wrong type. Returns `None` if the entry has the right type or does not exist.
    ///
    /// # Errors
    /// Errors of the file system.
    pub fn misplaced(&self, dir: &Dir) -> io::Result<Option<Misplaced>> {
        let (expected, flags) = match self {
            Place::File(_) => (FileType::RegularFile, AtFlags::SYMLINK_NOFOLLOW),
            Place::MovableFile(_) => (FileType::RegularFile, AtFlags::empty()),
            Place::Directory(_) => (FileType::Directory, AtFlags::SYMLINK_NOFOLLOW),
            Place::MovableDirectory(_) => (FileType::Directory, AtFlags::empty()),
        };
        let status = match calls::statat(dir, self.name(), flags) {
            // A symbolic link that leads nowhere is misplaced.
            Err(Errno::NOENT | Errno::LOOP) => dir.stat(self.name())?,
            status => Some(status?),
        };
        let found = status.map(|status| FileType::from_raw_mode(status.st_mode));
        let found = found.filter(|found| *found != expected);
        Ok(found.map(|found| Misplaced { expected, found }))
    }

    /// Returns a finding about `subject` if the entry is misplaced. If `repair` is set, also
    /// renames the entry, and returns `None` if another process renamed it first.
    ///
    /// # Errors
    /// Errors of the file system.
    pub fn examine(&self, dir: &Dir, subject: &str, repair: bool) -> io::Result<Option<Finding>> {
        let Some(what) = self.misplaced(dir)? else {
            return Ok(None);
        };
        let outcome = match repair {
            true => self.clear(dir)?.map(|aside| {
                format!("it was renamed to {aside}; `cas` makes a correct entry when it needs one")
            }),
            false => Some("a repair renames it".to_owned()),
        };
        Ok(outcome.map(|outcome| Finding {
            problem: Problem::StoreDamaged,
            subject: subject.to_owned(),
            detail: format!("{what}; {outcome}"),
            repaired: repair,
        }))
    }

    /// Renames a misplaced entry with [`Dir::set_aside`]. Locks `dir` during the call, if the file
    /// system can lock directories. Returns the new name, or `None` if the entry is not misplaced
    /// or does not exist. If this process is killed, the entry has either the old or the new name.
    ///
    /// # Errors
    /// Errors of the file system.
    pub fn clear(&self, dir: &Dir) -> io::Result<Option<String>> {
        let locked = dir.open_dir(".")?;
        // Some network file systems cannot lock directories. Two repairs at the same moment are
        // then not protected from each other.
        let _ = calls::flock(&locked, FlockOperation::LockExclusive);
        if self.misplaced(dir)?.is_none() {
            return Ok(None);
        }
        let aside = dir.set_aside(self.name())?;
        dir.sync()?;
        Ok(aside)
    }
}

impl Misplaced {
    /// Returns the error for a misplaced entry at `path`, which a repair sets aside.
    pub fn error(&self, path: &Path) -> Error {
        Error::corrupt(format!("{self} at {}", path.display()))
            .advice("run `cas fsck --repair`, which sets it aside")
    }
}

/// Returns the directory in `opened`, which is the result of opening a directory. Returns `None` if
/// the open failed because the directory is absent, or because an entry of another type has its
/// name.
///
/// # Errors
/// Any other error in `opened`.
pub fn if_directory(opened: io::Result<Dir>) -> io::Result<Option<Dir>> {
    let number = |error: &io::Error| error.raw_os_error().map(Errno::from_raw_os_error);
    match opened {
        Err(error)
            if matches!(
                number(&error),
                Some(Errno::NOENT | Errno::NOTDIR | Errno::LOOP)
            ) =>
        {
            Ok(None)
        }
        opened => opened.map(Some),
    }
}

impl fmt::Display for Misplaced {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (expected, found) = (with_article(self.expected), with_article(self.found));
        write!(f, "expected {expected}, found {found}")
    }
}

/// Returns the name of a file type, with an article.
pub(crate) fn with_article(kind: FileType) -> &'static str {
    match kind {
        FileType::RegularFile => "a file",
        FileType::Directory => "a directory",
        FileType::Symlink => "a symbolic link",
        FileType::Fifo => "a pipe",
        FileType::Socket => "a socket",
        _ => "a special file",
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn what_is_misplaced_is_found_and_renamed_once() {
        let temp = tempfile::tempdir().unwrap();
        let dir = Dir::open(temp.path()).unwrap();
        fs::create_dir(temp.path().join("directory")).unwrap();
        fs::write(temp.path().join("file"), "").unwrap();
        symlink("directory", temp.path().join("link")).unwrap();
        symlink("nowhere", temp.path().join("dangling")).unwrap();
        symlink("circle", temp.path().join("circle")).unwrap();
        for (place, expected) in [
            (Place::File("file"), None),
            (Place::File("absent"), None),
            (Place::Directory("directory"), None),
            (Place::Directory("absent"), None),
            (Place::MovableDirectory("directory"), None),
            (Place::MovableDirectory("link"), None),
            (Place::MovableDirectory("absent"), None),
            (Place::MovableFile("file"), None),
            (
                Place::MovableFile("link"),
                Some("expected a file, found a directory"),
            ),
            (
                Place::MovableFile("dangling"),
                Some("expected a file, found a symbolic link"),
            ),
            (
                Place::File("link"),
                Some("expected a file, found a symbolic link"),
            ),
            (
                Place::Directory("link"),
                Some("expected a directory, found a symbolic link"),
            ),
            (
                Place::MovableDirectory("dangling"),
                Some("expected a directory, found a symbolic link"),
            ),
            (
                Place::MovableDirectory("circle"),
                Some("expected a directory, found a symbolic link"),
            ),
            (
                Place::Directory("file"),
                Some("expected a directory, found a file"),
            ),
            (
                Place::File("directory"),
                Some("expected a file, found a directory"),
            ),
        ] {
            let found = place
                .misplaced(&dir)
                .unwrap()
                .map(|found| found.to_string());
            assert_eq!(found.as_deref(), expected, "{place:?}");
            let aside = place.clear(&dir).unwrap();
            assert_eq!(aside.is_some(), expected.is_some(), "{place:?}");
            assert_eq!(place.clear(&dir).unwrap(), None, "{place:?}");
            if let Some(aside) = aside {
                dir.rename(&*aside, &dir, place.name()).unwrap();
            }
        }
    }
}
