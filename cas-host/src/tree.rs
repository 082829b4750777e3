//! Walking a directory tree through file descriptors, to measure, remove or copy it.
//!
//! A walk follows no links and crosses no mounts. It keeps one file descriptor open, at any depth:
//! it returns to a parent through `..`, and checks that this is the directory it came from.

use std::collections::HashSet;
use std::ffi::{CStr, CString};
use std::fs;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path as FsPath;
use std::{fmt, io};

use cas_core::error::{Context, Error, ErrorKind, Result};
use cas_core::snapshot::Usage;
use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use crate::calls;
use crate::resolve::open_unmounted;

/// An entry of a directory. Links are not followed.
#[derive(Clone, Copy)]
pub(crate) struct At<'a> {
    pub(crate) dir: BorrowedFd<'a>,
    pub(crate) name: &'a CStr,
    pub(crate) stat: &'a Stat,
}

impl At<'_> {
    pub(crate) fn file_type(&self) -> FileType {
        FileType::from_raw_mode(self.stat.st_mode)
    }

    /// Returns device and inode.
    pub(crate) fn identity(&self) -> (u64, u64) {
        (self.stat.st_dev, self.stat.st_ino)
    }
}

/// The actions of a walk.
pub(crate) trait Visit {
    /// Visits an entry that is not a directory.
    fn entry(&mut self, at: At<'_>) -> Result<(), Errno>;

    /// Opens a directory.
    fn open(&mut self, at: At<'_>) -> Result<OwnedFd, Errno> {
        open_below(at)
    }

    /// Enters a directory.
    fn enter(&mut self, at: At<'_>) -> Result<(), Errno>;

    /// Leaves a directory, after everything in it was visited.
    fn leave(&mut self, at: At<'_>, child: BorrowedFd<'_>) -> Result<(), Errno>;

    /// Visits a mount point, which is not entered.
    fn mounted(&mut self) -> Result<()> {
        Err(Error::busy("something is mounted here; unmount it first"))
    }
}

/// A directory on the path from the root to the current one.
struct Above {
    identity: (u64, u64),
    pending: Vec<(CString, Stat)>,
    name: CString,
    stat: Stat,
}

/// Visits everything below `root`. Entries that are removed meanwhile are skipped.
///
/// # Errors
/// `Busy` at a mount point; errors of the visitor and the file system, with the path.
pub(crate) fn walk(root: impl AsFd, visit: &mut impl Visit) -> Result<()> {
    let mut above = Vec::new();
    walk_below(root.as_fd(), &mut above, visit).during("walk", Path(&above, None))
}

fn walk_below(
    root: BorrowedFd<'_>,
    above: &mut Vec<Above>,
    visit: &mut impl Visit,
) -> io::Result<()> {
    let mut here = open_again(root, c".")?;
    let mut pending = list(&here, above, visit)?;
    loop {
        if let Some((name, stat)) = pending.pop() {
            let at = At {
                dir: here.as_fd(),
                name: &name,
                stat: &stat,
            };
            let below = descend(at, visit).during("walk", Path(above, Some(&name)))?;
            if let Some(child) = below {
                above.push(Above {
                    identity: identity(&here)?,
                    pending,
                    name,
                    stat,
                });
                here = child;
                pending = list(&here, above, visit)?;
            }
        } else if let Some(last) = above.last() {
            here = ascend(here, last, visit)?;
            pending = above.pop().map(|last| last.pending).unwrap_or_default();
        } else {
            return Ok(());
        }
    }
}

/// Opens a directory and enters it. Returns `None` if it was removed or is skipped.
fn descend(at: At<'_>, visit: &mut impl Visit) -> io::Result<Option<OwnedFd>> {
    match visit.open(at) {
        Ok(child) => {
            visit.enter(at)?;
            Ok(Some(child))
        }
        Err(Errno::XDEV) => Ok(visit.mounted().map(|()| None)?),
        Err(Errno::NOENT) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Leaves a directory. Returns its parent.
fn ascend(here: OwnedFd, last: &Above, visit: &mut impl Visit) -> io::Result<OwnedFd> {
    let parent = open_again(here.as_fd(), c"..")?;
    if identity(&parent)? != last.identity {
        let message = "a directory was moved while its tree was walked; retry";
        return Err(Error::unavailable(message).into());
    }
    let at = At {
        dir: parent.as_fd(),
        name: &last.name,
        stat: &last.stat,
    };
    visit.leave(at, here.as_fd())?;
    Ok(parent)
}

/// Visits all entries that are not directories. Returns the directories.
fn list(
    dir: &OwnedFd,
    above: &[Above],
    visit: &mut impl Visit,
) -> io::Result<Vec<(CString, Stat)>> {
    let mut names = Vec::new();
    for entry in rustix::fs::Dir::read_from(dir)? {
        let entry = entry?;
        if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
            names.push(entry.file_name().to_owned());
        }
    }
    let mut directories = Vec::new();
    for name in names {
        let stat = match calls::statat(dir, &name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => continue,
            stat => stat?,
        };
        let at = At {
            dir: dir.as_fd(),
            name: &name,
            stat: &stat,
        };
        if at.file_type() == FileType::Directory {
            directories.push((name, stat));
        } else {
            let visited = visit.entry(at).map_err(io::Error::from);
            visited.during("walk", Path(above, Some(&name)))?;
        }
    }
    Ok(directories)
}

/// Opens a directory, unless it is a mount point.
pub(crate) fn open_below(at: At<'_>) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    open_unmounted(at.dir, at.name.to_bytes(), flags)
}

fn open_again(dir: BorrowedFd<'_>, name: &CStr) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    calls::openat(dir, name, flags, Mode::empty())
}

fn identity(dir: &OwnedFd) -> Result<(u64, u64), Errno> {
    calls::fstat(dir).map(|stat| (stat.st_dev, stat.st_ino))
}

/// The path of an entry below the root, which is built only when it is printed.
struct Path<'a>(&'a [Above], Option<&'a CString>);

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(".")?;
        let mut names = self.0.iter().map(|level| &level.name).chain(self.1);
        names.try_for_each(|name| write!(f, "/{}", name.to_string_lossy()))
    }
}

/// Measures a tree. An inode with several names counts once.
#[derive(Default)]
struct Meter {
    usage: Usage,
    linked: HashSet<(u64, u64)>,
}

impl Meter {
    fn count(&mut self, at: At<'_>) {
        let single = at.stat.st_nlink < 2 || at.file_type() == FileType::Directory;
        if single || self.linked.insert(at.identity()) {
            self.usage += Usage {
                bytes: u64::try_from(at.stat.st_blocks).unwrap_or(0) * 512,
                inodes: 1,
            };
        }
    }
}

impl Visit for Meter {
    fn entry(&mut self, at: At<'_>) -> Result<(), Errno> {
        self.count(at);
        Ok(())
    }

    fn enter(&mut self, at: At<'_>) -> Result<(), Errno> {
        self.count(at);
        Ok(())
    }

    fn leave(&mut self, _: At<'_>, _: BorrowedFd<'_>) -> Result<(), Errno> {
        Ok(())
    }

    /// A mount takes no space in this tree.
    fn mounted(&mut self) -> Result<()> {
        Ok(())
    }
}

/// Returns the disk usage of everything below `dir`. An inode with several names counts once.
///
/// # Errors
/// Errors of the file system, with the path.
pub fn measure(dir: impl AsFd) -> Result<Usage> {
    let mut meter = Meter::default();
    walk(dir, &mut meter)?;
    Ok(meter.usage)
}

/// Removes a tree and measures it.
struct Remover {
    meter: Meter,
    privileged: bool,
}

impl Remover {
    fn new() -> Self {
        Remover {
            meter: Meter::default(),
            privileged: rustix::process::geteuid().is_root(),
        }
    }

    /// Returns whether a directory does not let this user remove what is in it.
    fn is_closed(&self, stat: &Stat) -> bool {
        !self.privileged && stat.st_mode & 0o700 != 0o700
    }
}

impl Visit for Remover {
    fn entry(&mut self, at: At<'_>) -> Result<(), Errno> {
        self.meter.count(at);
        ignore_absent(calls::unlinkat(at.dir, at.name, AtFlags::empty()))
    }

    /// Without privileges, removing entries needs permissions that the directory may not grant.
    fn open(&mut self, at: At<'_>) -> Result<OwnedFd, Errno> {
        if self.is_closed(at.stat) {
            let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let found = calls::openat(at.dir, at.name, flags, Mode::empty())?;
            calls::chmod(&proc_path(found.as_fd()), Mode::RWXU)?;
        }
        open_below(at)
    }

    fn enter(&mut self, at: At<'_>) -> Result<(), Errno> {
        self.meter.count(at);
        Ok(())
    }

    fn leave(&mut self, at: At<'_>, _: BorrowedFd<'_>) -> Result<(), Errno> {
        ignore_absent(calls::unlinkat(at.dir, at.name, AtFlags::REMOVEDIR))
    }
}

/// Returns the path at which the kernel shows a file descriptor of this process.
pub(crate) fn proc_path(fd: BorrowedFd<'_>) -> String {
    use std::os::fd::AsRawFd;
    format!("/proc/self/fd/{}", fd.as_raw_fd())
}

/// Ignores that the entry is absent, because another process may be removing the same tree.
fn ignore_absent(outcome: Result<(), Errno>) -> Result<(), Errno> {
    match outcome {
        Err(Errno::NOENT) => Ok(()),
        other => other,
    }
}

/// Removes the directory `name` in `parent` and everything below it. Returns the freed space. An
/// absent directory is not an error.
///
/// # Errors
/// `Busy` at a mount point; errors of the file system, with the path.
pub(crate) fn remove(parent: impl AsFd, name: &str) -> Result<Usage> {
    let mut remover = Remover::new();
    let removed = remove_with(parent.as_fd(), name, &mut remover).during("remove", name);
    match removed {
        Err(error) if error.kind() == ErrorKind::Denied && !remover.privileged => {
            let why = "files of other users are in it; run the command in `cas unshare`";
            Err(Error::new(ErrorKind::Denied, why).source(error)).during("remove", name)
        }
        removed => removed.map(|()| remover.meter.usage),
    }
}

/// Removes everything below the directory `path`, also from directories that do not let their owner
/// in. If `itself` says so, removes the directory too, which must not be a link.
///
/// # Errors
/// `Busy`, inside an `io::Error`, at a mount point; errors of the file system.
pub fn remove_all(path: &FsPath, itself: bool) -> io::Result<()> {
    let mut flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    flags.set(OFlags::NOFOLLOW, itself);
    let found = calls::open(path, flags, Mode::empty())?;
    let mut remover = Remover::new();
    if remover.is_closed(&calls::fstat(&found)?) {
        calls::chmod(&proc_path(found.as_fd()), Mode::RWXU)?;
    }
    walk(open_again(found.as_fd(), c".")?, &mut remover)?;
    if itself {
        fs::remove_dir(path)?;
    }
    Ok(())
}

fn remove_with(parent: BorrowedFd<'_>, name: &str, remover: &mut Remover) -> io::Result<()> {
    let name = CString::new(name)?;
    let stat = match calls::statat(parent, &name, AtFlags::SYMLINK_NOFOLLOW) {
        Err(Errno::NOENT) => return Ok(()),
        stat => stat?,
    };
    let at = At {
        dir: parent,
        name: &name,
        stat: &stat,
    };
    let Some(dir) = descend(at, remover)? else {
        return Ok(());
    };
    walk(&dir, remover)?;
    remover.leave(at, dir.as_fd())?;
    Ok(())
}
