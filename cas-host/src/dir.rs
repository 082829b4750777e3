//! An open directory, and the reading and changing of its files.

use std::ffi::CString;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use cas_core::Error;
use rustix::fs::{AtFlags, FileType, Mode, OFlags, RenameFlags, Stat};
use rustix::io::Errno;
use rustix::path::Arg;

use crate::calls;

/// An open directory.
#[derive(Debug)]
pub struct Dir(OwnedFd);

/// What [`Dir::rename_new`] found at the new name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Existing {
    /// Nothing. The file has the new name now.
    Nothing,
    /// Another file. Both files keep their names.
    Something,
}

/// An entry of a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The name. Entries whose names are not UTF-8 are not listed.
    pub name: String,
    /// The type, or `Unknown` if the directory does not store types.
    pub kind: FileType,
}

const DIRECTORY: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::CLOEXEC);

impl Dir {
    /// Opens the directory at `path`.
    ///
    /// # Errors
    /// Errors of the file system.
    pub fn open(path: impl AsRef<Path>) -> io::Result<Self> {
        Ok(Dir(calls::open(path.as_ref(), DIRECTORY, Mode::empty())?))
    }

    /// Opens a subdirectory. Refuses a symbolic link.
    ///
    /// # Errors
    /// Errors of the file system.
    pub fn open_dir(&self, name: &str) -> io::Result<Self> {
        let flags = DIRECTORY | OFlags::NOFOLLOW;
        Ok(Dir(calls::openat(&self.0, name, flags, Mode::empty())?))
    }

    /// Opens a subdirectory. If it is absent, creates it durably with the permissions of `mode`
    /// that the umask allows.
    ///
    /// # Errors
    /// Errors of the file system.
    pub fn make_dir(&self, name: &str, mode: u32) -> io::Result<Self> {
        match calls::mkdirat(&self.0, name, Mode::from_raw_mode(mode)) {
            Ok(()) => self.sync()?,
            Err(Errno::EXIST) => {}
            // On a read-only file system an existing directory can still be read.
            Err(error) => return self.open_dir(name).map_err(|_| error.into()),
        }
        self.open_dir(name)
    }

    /// Opens the file `name` with `flags`. A file that this call creates has the permissions of
    /// `mode` that the umask allows. Refuses a symbolic link. Child processes do not inherit the
    /// file descriptor.
    ///
    /// # Errors
    /// Errors of the file system.
    pub fn open_file(&self, name: impl Arg + Copy, flags: OFlags, mode: u32) -> io::Result<File> {
        let flags = flags | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let file = calls::openat(&self.0, name, flags, Mode::from_raw_mode(mode))?;
        Ok(File::from(file))
    }

    /// Returns the status of the entry `name`, or `None` if the entry is absent. Does not follow a
    /// symbolic link.
    ///
    /// # Errors
    /// Errors of the file system.
    pub fn stat(&self, name: impl Arg + Copy) -> io::Result<Option<Stat>> {
        match calls::statat(&self.0, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(stat)),
            Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Returns whether the entry `name` of this directory is the open file `file`.
    ///
    /// # Errors
    /// Errors of the file system.
    pub fn is_file(&self, name: &str, file: &File) -> io::Result<bool> {
        let ours = calls::fstat(file)?;
        let found = self.stat(name)?;
        Ok(found.is_some_and(|found| (found.st_dev, found.st_ino) == (ours.st_dev, ours.st_ino)))
    }

    /// Returns the content of a file, or `None` if the file is absent.
    ///
    /// # Errors
    /// `OutOfRange`, as an [`Error`] inside the `io::Error`, if the file has more than `limit`
    /// bytes; errors of the file system.
    pub fn read(&self, name: &str, limit: u64) -> io::Result<Option<Vec<u8>>> {
        let file = match self.open_file(name, OFlags::RDONLY | OFlags::NONBLOCK, 0) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            opened => opened?,
        };
        let mut data = Vec::new();
        file.take(limit.saturating_add(1)).read_to_end(&mut data)?;
        if data.len() as u64 > limit {
            let text =
                format!("expected at most {limit} bytes in {name}, found more; restore the file");
            return Err(Error::out_of_range(text).into());
        }
        Ok(Some(data))
    }

    /// Replaces the content of `name` atomically and durably, or creates the file if it is absent.
    ///
    /// `staging` is the directory and the name of the temporary file. The directory must be on the
    /// same file system as `self`. The caller must ensure that nothing else uses the temporary
    /// file. The new file has the mode `mode`, regardless of the umask.
    ///
    /// # Errors
    /// Errors of the file system. The file then has the old or the new content.
    pub fn replace(
        &self,
        name: &str,
        data: &[u8],
        mode: u32,
        staging: (&Dir, &str),
    ) -> io::Result<()> {
        let (dir, temporary) = staging;
        // Without NONBLOCK a pipe with this name would block until it has a reader.
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::NONBLOCK;
        let mut file = dir.open_file(temporary, flags, mode)?;
        let written = file
            .write_all(data)
            .and_then(|()| Ok(calls::fchmod(&file, Mode::from_raw_mode(mode))?))
            .and_then(|()| file.sync_all())
            .and_then(|()| dir.rename(temporary, self, name));
        if let Err(error) = written {
            // The write may have failed for lack of space.
            let _ = dir.remove(temporary);
            return Err(error);
        }
        self.sync()
    }

    /// Renames a damaged file or directory to the first free name of `NAME.damaged-1`,
    /// `NAME.damaged-2` and so on. Returns the new name, or `None` if the entry is absent. The
    /// caller must ensure that only one process does this at a time, and must sync the directory if
    /// the new name must be durable.
    ///
    /// # Errors
    /// Errors of the file system.
    pub fn set_aside(&self, name: &str) -> io::Result<Option<String>> {
        self.set_aside_into(self, name)
    }

    /// Moves a damaged file or directory to the directory `to`, under the first free name of
    /// `NAME.damaged-1`, `NAME.damaged-2` and so on in `to`. Returns the new name, or `None` if the
    /// entry is absent. `to` must be on the same file system as `self`. The caller must ensure that
    /// only one process does this at a time, and must sync both directories if the move must be
    /// durable.
    ///
    /// # Errors
    /// Errors of the file system.
    pub fn set_aside_into(&self, to: &Dir, name: &str) -> io::Result<Option<String>> {
        if self.stat(name)?.is_none() {
            return Ok(None);
        }
        let mut number = 1;
        loop {
            let aside = format!("{name}.damaged-{number}");
            if to.stat(&*aside)?.is_none() {
                self.rename(name, to, &*aside)?;
                return Ok(Some(aside));
            }
            number += 1;
        }
    }

    /// Renames the file `from` to the name `to` in `dir`, and replaces a file that has this name.
    ///
    /// # Errors
    /// Errors of the file system.
    pub fn rename(&self, from: impl Arg + Copy, dir: &Dir, to: impl Arg + Copy) -> io::Result<()> {
        Ok(calls::renameat(&self.0, from, &dir.0, to)?)
    }

    /// Renames the file `from` to the name `to` in `dir`, unless a file has this name already.
    /// Returns [`Existing::Something`] if a file has the name already, and [`Existing::Nothing`]
    /// otherwise. If the file system cannot do this in one step, and the process is killed during
    /// the call, the file may have both names.
    ///
    /// # Errors
    /// Errors of the file system.
    pub fn rename_new<A: Arg + Copy>(&self, from: A, dir: &Dir, to: A) -> io::Result<Existing> {
        let renamed = calls::renameat_with(&self.0, from, &dir.0, to, RenameFlags::NOREPLACE);
        let outcome = match renamed {
            // File systems without the flag must have hard links.
            Err(Errno::INVAL | Errno::NOSYS) => {
                calls::linkat(&self.0, from, &dir.0, to, AtFlags::empty())
                    .and_then(|()| calls::unlinkat(&self.0, from, AtFlags::empty()))
            }
            outcome => outcome,
        };
        match outcome {
            Ok(()) => Ok(Existing::Nothing),
            Err(Errno::EXIST) => Ok(Existing::Something),
            Err(error) => Err(error.into()),
        }
    }

    /// Exchanges the names of two files or directories in one step.
    ///
    /// # Errors
    /// Errors of the file system. Some file systems do not support the exchange.
    pub fn exchange(&self, one: impl Arg + Copy, other: impl Arg + Copy) -> io::Result<()> {
        let exchanged = calls::renameat_with(&self.0, one, &self.0, other, RenameFlags::EXCHANGE);
        Ok(exchanged?)
    }

    /// Removes a file. Returns false if it is absent.
    ///
    /// # Errors
    /// Errors of the file system.
    pub fn remove(&self, name: impl Arg + Copy) -> io::Result<bool> {
        match calls::unlinkat(&self.0, name, AtFlags::empty()) {
            Ok(()) => Ok(true),
            Err(Errno::NOENT) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Removes a directory. Returns false if it is not empty.
    ///
    /// # Errors
    /// Errors of the file system.
    pub fn remove_dir(&self, name: &str) -> io::Result<bool> {
        match calls::unlinkat(&self.0, name, AtFlags::REMOVEDIR) {
            Ok(()) => Ok(true),
            Err(Errno::NOTEMPTY | Errno::EXIST) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Makes the names in this directory durable.
    ///
    /// # Errors
    /// Errors of the device.
    pub fn sync(&self) -> io::Result<()> {
        Ok(calls::fsync(&self.0)?)
    }

    /// Returns the entries in no particular order, without `.`, `..` and names that are not UTF-8.
    ///
    /// # Errors
    /// Errors of the file system.
    pub fn entries(&self) -> io::Result<Vec<Entry>> {
        let entries = calls::list(&self.0)?.into_iter();
        let entry = |(name, kind): (CString, FileType)| {
            let name = name.into_string().ok()?;
            Some(Entry { name, kind })
        };
        Ok(entries.filter_map(entry).collect())
    }

    /// Calls `visit` for the name and the type of each entry, in any order, without an allocation
    /// for each name. The type is `Unknown` if the directory does not store types. Skips names that
    /// are not UTF-8.
    ///
    /// # Errors
    /// Errors of the file system.
    pub fn each_name(&self, mut visit: impl FnMut(&str, FileType)) -> io::Result<()> {
        let again = calls::openat(&self.0, ".", DIRECTORY, Mode::empty())?;
        calls::each_entry(again, |name, kind| {
            if let Ok(name) = name.to_str() {
                visit(name, kind);
            }
            Ok(())
        })
    }
}

impl AsFd for Dir {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replace_changes_the_content_and_leaves_no_temporary_file() {
        let temp = tempfile::tempdir().unwrap();
        let dir = Dir::open(temp.path()).unwrap();
        let staging = dir.make_dir("staging", 0o700).unwrap();
        assert_eq!(dir.read("x", 10).unwrap(), None);
        dir.replace("x", b"one", 0o644, (&staging, "new")).unwrap();
        dir.replace("x", b"two", 0o644, (&staging, "new")).unwrap();
        assert_eq!(dir.read("x", 3).unwrap().unwrap(), b"two");
        let too_large = Error::from(dir.read("x", 2).unwrap_err());
        assert_eq!(too_large.kind(), cas_core::ErrorKind::OutOfRange);
        assert_eq!(staging.entries().unwrap().len(), 0);
    }

    #[test]
    fn each_name_of_a_large_directory_is_visited_once() {
        let temp = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir());
        let temp = temp.unwrap();
        let mut expected: Vec<String> = (0..9000).map(|number| format!("{number:0>64}")).collect();
        for name in &expected {
            std::fs::write(temp.path().join(name), "").unwrap();
        }
        std::fs::create_dir(temp.path().join("directory")).unwrap();
        expected.push("directory".to_owned());
        let (dir, mut found) = (Dir::open(temp.path()).unwrap(), Vec::new());
        let visit = |name: &str, kind| {
            let expected = match name {
                "directory" => FileType::Directory,
                _ => FileType::RegularFile,
            };
            assert!([expected, FileType::Unknown].contains(&kind), "{name}");
            found.push(name.to_owned());
        };
        dir.each_name(visit).unwrap();
        found.sort_unstable();
        assert!(found == expected, "{} names", found.len());
    }

    #[test]
    fn rename_new_never_replaces_a_file() {
        let temp = tempfile::tempdir().unwrap();
        let dir = Dir::open(temp.path()).unwrap();
        for name in ["a", "b"] {
            std::fs::write(temp.path().join(name), name).unwrap();
        }
        assert_eq!(dir.rename_new("a", &dir, "b").unwrap(), Existing::Something);
        assert_eq!(dir.rename_new("a", &dir, "c").unwrap(), Existing::Nothing);
        assert_eq!(dir.read("b", 9).unwrap().unwrap(), b"b");
        assert_eq!(dir.read("c", 9).unwrap().unwrap(), b"a");
    }
}
