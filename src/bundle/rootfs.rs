//! Reads files of an untrusted root file system. Files outside of the root file system are never
//! opened.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use cas_core::{Context, Error, Result};
use rustix::fs::{FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use super::Process;

/// A root file system. Paths and symbolic links are resolved inside it.
#[derive(Debug)]
pub struct Rootfs(OwnedFd);

/// Whether the program of a process can be executed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Program {
    /// The program is an executable file.
    Found,
    /// No file has the name of the program.
    Absent,
    /// Something has the name of the program, but it is not an executable file.
    NotExecutable,
}

impl AsFd for Rootfs {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Rootfs {
    /// Opens the root file system in the directory `path`, which must not be a symbolic link.
    ///
    /// # Errors
    /// Errors of the file system.
    pub fn open(path: &Path) -> Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let opened = cas_host::calls::open(path, flags, Mode::empty()).map_err(io::Error::from);
        Ok(Rootfs(opened.during("open", path.display())?))
    }

    /// Looks for the program of `process` in the root file system, in the directories where
    /// `execvp` would look. Uses the `PATH` of the process, or a default `PATH` if the process does
    /// not have one. Returns whether the program can be executed. Does not find programs that a
    /// runtime mounts over the root file system.
    ///
    /// # Errors
    /// Errors of the file system.
    pub fn program(&self, process: &Process) -> Result<Program> {
        let name = process.args.first().map_or("", String::as_str);
        let path = process.env.iter().find_map(|one| one.strip_prefix("PATH="));
        let folders = if name.contains('/') {
            ""
        } else {
            path.unwrap_or(super::spec::PATH)
        };
        let mut found = Program::Absent;
        for folder in folders.split(':').filter(|_| !name.is_empty()) {
            let path = Path::new(&process.cwd).join(folder).join(name);
            let Some((_, stat)) = self.find(&path).during("look for", path.display())? else {
                continue;
            };
            if is_file(&stat) && stat.st_mode & 0o111 != 0 {
                return Ok(Program::Found);
            }
            found = Program::NotExecutable;
        }
        Ok(found)
    }

    /// Reads a text file. Returns `None` if it is absent.
    ///
    /// # Errors
    /// `Corrupt` if it is not a regular file; `OutOfRange` if it has more than `limit` bytes;
    /// errors of the file system.
    pub(super) fn read(&self, path: &str, limit: u64) -> Result<Option<String>> {
        let read = || -> Result<Option<String>> {
            let Some((file, stat)) = self.find(Path::new(path))? else {
                return Ok(None);
            };
            if !is_file(&stat) {
                return Err(Error::corrupt(
                    "expected a regular file, found another type of file; correct the image",
                ));
            }
            // Open it only after the check, because opening a device or a pipe has side effects.
            let file = File::open(format!("/proc/self/fd/{}", file.as_raw_fd()))?;
            let mut text = Vec::new();
            file.take(limit.saturating_add(1)).read_to_end(&mut text)?;
            if text.len() as u64 > limit {
                let why = format!("expected at most {limit} bytes; shorten the file in the image");
                return Err(Error::out_of_range(why));
            }
            Ok(Some(String::from_utf8_lossy(&text).into_owned()))
        };
        read().during("read the image's", path)
    }

    fn find(&self, path: &Path) -> io::Result<Option<(OwnedFd, Stat)>> {
        match cas_host::open_inside(&self.0, path.as_os_str().as_bytes(), OFlags::PATH) {
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::NAMETOOLONG) => Ok(None),
            found => {
                let found = found?;
                let stat = cas_host::calls::fstat(&found)?;
                Ok(Some((found, stat)))
            }
        }
    }
}

fn is_file(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile
}
