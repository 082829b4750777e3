//! The directory of the snapshot of a layer that is read on demand.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use cas_core::{Context, Error, Result};
use cas_host::calls::{proc_path, undisturbed};
use cas_host::{Dir, remove_all};
use rustix::fs::{FileType, OFlags};

/// The open directory of a snapshot. If the records of a root or the root itself are lost, another
/// snapshot can later have the same path. So the files of the snapshot are found through the open
/// directory, and not by the path. Symbolic links in the place of files are not followed.
pub(crate) struct Place {
    dir: Dir,
    path: PathBuf,
}

impl Place {
    /// Opens the directory at `path`.
    ///
    /// # Errors
    /// Errors of the file system.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        Ok(Place {
            dir: open(path).during("open directory", path.display())?,
            path: path.to_owned(),
        })
    }

    /// Returns whether the path of the snapshot still leads to this directory. While the directory
    /// is open, no other directory has its inode.
    pub(crate) fn is_current(&self) -> bool {
        let found = open(&self.path).and_then(|found| found.stat("."));
        match (found, self.dir.stat(".")) {
            (Ok(Some(found)), Ok(Some(own))) => {
                (found.st_dev, found.st_ino) == (own.st_dev, own.st_ino)
            }
            _ => false,
        }
    }

    /// Returns the open directory.
    pub(crate) fn dir(&self) -> &Dir {
        &self.dir
    }

    /// Returns a path that leads to the open directory in this process.
    pub(crate) fn in_process(&self) -> PathBuf {
        proc_path(&self.dir.as_fd())
    }

    /// Returns the path of the file `name`, for messages.
    pub(crate) fn shown(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Opens the file `name` for reading and writing. Makes the file if it is absent. Something
    /// else in the place of the file, such as a pipe or a symbolic link, is removed first.
    ///
    /// # Errors
    /// `Corrupt` if something else takes the place of the file meanwhile; errors of the file
    /// system.
    pub(crate) fn open_file(&self, name: &str) -> Result<File> {
        let opened = || -> Result<File> {
            if let Some(found) = self.dir.stat(name)?
                && FileType::from_raw_mode(found.st_mode) != FileType::RegularFile
            {
                let path = self.shown(name);
                tracing::warn!(
                    path = %path.display(),
                    "something else is in the place of a file of a layer; it is removed"
                );
                self.remove(name)?;
            }
            let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NONBLOCK;
            let file = self.dir.open_file(name, flags, 0o600)?;
            match undisturbed(|| file.metadata())?.is_file() {
                true => Ok(file),
                false => Err(Error::corrupt(
                    "expected a regular file, found something else; run `cas fsck --repair`",
                )),
            }
        };
        opened().during("open", self.shown(name).display())
    }

    /// Makes an empty file `name` for writing. Whatever has the name is removed first.
    ///
    /// # Errors
    /// Errors of the file system.
    pub(crate) fn new_file(&self, name: &str) -> Result<File> {
        let made = || -> Result<File> {
            self.remove(name)?;
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL;
            Ok(self.dir.open_file(name, flags, 0o600)?)
        };
        made().during("create", self.shown(name).display())
    }

    /// Removes the entry `name` of any type, if it exists.
    fn remove(&self, name: &str) -> Result<()> {
        match self.dir.stat(name)? {
            Some(found) if FileType::from_raw_mode(found.st_mode) == FileType::Directory => {
                Ok(remove_all(&self.in_process().join(name), true)?)
            }
            Some(_) => Ok(self.dir.remove(name).map(|_| ())?),
            None => Ok(()),
        }
    }
}

/// Opens a directory, unless `path` is a symbolic link.
fn open(path: &Path) -> io::Result<Dir> {
    match (path.parent(), path.file_name().and_then(OsStr::to_str)) {
        (Some(parent), Some(name)) => Dir::open(parent)?.open_dir(name),
        _ => Dir::open(path),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Write;
    use std::os::unix::fs::symlink;

    use rustix::fs::{CWD, Mode, mknodat};

    use super::*;

    #[test]
    fn something_else_in_the_place_of_a_file_is_replaced_and_no_link_is_followed() {
        let temp = tempfile::tempdir().unwrap();
        let at = |name: &str| temp.path().join("7").join(name);
        let outside = temp.path().join("outside");
        fs::create_dir(at("")).unwrap();
        let place = Place::open(&at("")).unwrap();
        fs::create_dir(at("directory")).unwrap();
        fs::write(at("directory/inner"), "").unwrap();
        symlink(&outside, at("link")).unwrap();
        mknodat(CWD, at("pipe"), FileType::Fifo, Mode::RWXU, 0).unwrap();
        for name in ["directory", "link", "pipe", "absent"] {
            for open in [Place::open_file, Place::new_file] {
                let mut file = open(&place, name).unwrap();
                file.write_all(b"bytes").unwrap();
                assert!(fs::symlink_metadata(at(name)).unwrap().is_file(), "{name}");
                assert_eq!(fs::read(at(name)).unwrap(), b"bytes", "{name}");
            }
        }
        assert!(!outside.exists());
    }

    #[test]
    fn a_directory_with_the_same_path_is_another_one() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("7");
        fs::create_dir(&path).unwrap();
        let place = Place::open(&path).unwrap();
        assert!(place.is_current());
        fs::remove_dir(&path).unwrap();
        assert!(!place.is_current());
        fs::create_dir(&path).unwrap();
        assert!(!place.is_current());
        assert!(Place::open(&path).unwrap().is_current());
    }
}
