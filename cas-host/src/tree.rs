//! Walking a directory tree through file descriptors, and measuring it.
//!
//! A walk follows no symbolic links, and enters no directory that is a mount point. It keeps only
//! one directory open, even in a deep tree. It returns to the parent of a directory through `..`,
//! and checks that the directory has not been moved to another parent.

use std::collections::HashSet;
use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::{fmt, io};

use cas_core::error::{Context, Error, Result};
use cas_core::snapshot::Usage;
use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use crate::calls;
use crate::resolve::open_unmounted;

/// An entry of a directory. For a symbolic link, this is the link and not its target.
#[derive(Clone, Copy)]
pub struct At<'a> {
    /// The directory that contains the entry.
    pub dir: BorrowedFd<'a>,
    /// The name of the entry.
    pub name: &'a CStr,
    /// The status of the entry.
    pub stat: &'a Stat,
}

impl At<'_> {
    /// Returns the type of the entry.
    pub fn file_type(&self) -> FileType {
        FileType::from_raw_mode(self.stat.st_mode)
    }

    /// Returns the device and the inode number of the entry.
    pub fn identity(&self) -> (u64, u64) {
        (self.stat.st_dev, self.stat.st_ino)
    }
}

/// The actions of a walk.
pub trait Visit {
    /// Visits an entry that is not a directory.
    ///
    /// # Errors
    /// An error ends the walk.
    fn entry(&mut self, at: At<'_>) -> io::Result<()>;

    /// Opens a directory.
    ///
    /// # Errors
    /// `EXDEV` if the directory is a mount point; the walk then calls [`Self::mounted`]. `ENOENT`
    /// if the directory was removed or is to be skipped; the walk then continues without it. Any
    /// other error ends the walk.
    fn open(&mut self, at: At<'_>) -> Result<OwnedFd, Errno> {
        open_below(at)
    }

    /// Enters a directory, before anything in it is visited.
    ///
    /// # Errors
    /// An error ends the walk.
    fn enter(&mut self, at: At<'_>) -> io::Result<()>;

    /// Leaves a directory, after everything in it was visited. `child` is the directory, still
    /// open.
    ///
    /// # Errors
    /// An error ends the walk.
    fn leave(&mut self, at: At<'_>, child: BorrowedFd<'_>) -> io::Result<()>;

    /// Called at a directory that is a mount point. If this method returns `Ok`, the walk skips the
    /// directory. By default, returns the error `Busy`.
    ///
    /// # Errors
    /// An error ends the walk.
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

/// Visits everything below `root`. In a directory, the entries that are not directories come first,
/// sorted by name. Then come the directories, also sorted by name. Entries that are removed during
/// the walk are skipped.
///
/// # Errors
/// `NotFound` if `root` was removed; `Busy` if a directory is a mount point, unless
/// [`Visit::mounted`] of the visitor returns `Ok`; `Unavailable` if a directory is moved during the
/// walk; errors of the visitor and of the file system, with the path.
pub fn walk(root: impl AsFd, visit: &mut impl Visit) -> Result<()> {
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
pub(crate) fn descend(at: At<'_>, visit: &mut impl Visit) -> io::Result<Option<OwnedFd>> {
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

/// Visits all entries that are not directories. Returns the directories, the first one last.
fn list(
    dir: &OwnedFd,
    above: &[Above],
    visit: &mut impl Visit,
) -> io::Result<Vec<(CString, Stat)>> {
    let listed = match calls::list(dir) {
        // A directory that was removed after it was opened counts as empty, but not the root.
        Err(error) if error.kind() == io::ErrorKind::NotFound && !above.is_empty() => Vec::new(),
        listed => listed?,
    };
    let mut names: Vec<CString> = listed.into_iter().map(|(name, _)| name).collect();
    names.sort_unstable();
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
            visit.entry(at).during("walk", Path(above, Some(&name)))?;
        }
    }
    directories.reverse();
    Ok(directories)
}

/// Opens a directory, unless it is a mount point.
pub(crate) fn open_below(at: At<'_>) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    open_unmounted(at.dir, at.name.to_bytes(), flags)
}

pub(crate) fn open_again(dir: BorrowedFd<'_>, name: &CStr) -> Result<OwnedFd, Errno> {
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
    /// Whether directories that cannot be read are skipped.
    skips: bool,
}

impl Meter {
    fn count(&mut self, at: At<'_>) {
        let single = at.stat.st_nlink < 2 || at.file_type() == FileType::Directory;
        if single || self.linked.insert(at.identity()) {
            self.usage += usage_of(at.stat);
        }
    }
}

/// Returns the disk usage of one inode.
pub(crate) fn usage_of(stat: &Stat) -> Usage {
    Usage {
        bytes: u64::try_from(stat.st_blocks).unwrap_or(0) * 512,
        inodes: 1,
    }
}

impl Visit for Meter {
    fn open(&mut self, at: At<'_>) -> Result<OwnedFd, Errno> {
        let opened = open_below(at);
        if !self.skips {
            return opened;
        }
        // Without the right to search a directory, its entries can be listed, but not measured.
        let searched =
            opened.and_then(|dir| calls::statat(&dir, c".", AtFlags::empty()).map(|_| dir));
        searched.map_err(|_| Errno::NOENT)
    }

    fn entry(&mut self, at: At<'_>) -> io::Result<()> {
        self.count(at);
        Ok(())
    }

    fn enter(&mut self, at: At<'_>) -> io::Result<()> {
        self.count(at);
        Ok(())
    }

    fn leave(&mut self, _: At<'_>, _: BorrowedFd<'_>) -> io::Result<()> {
        Ok(())
    }

    /// A mount takes no space in this tree.
    fn mounted(&mut self) -> Result<()> {
        Ok(())
    }
}

/// Returns the disk usage of everything below `dir`, without mounted file systems. An inode with
/// several names counts once.
///
/// # Errors
/// `Unavailable` if a directory is moved meanwhile; errors of the file system, with the path.
pub fn measure(dir: impl AsFd) -> Result<Usage> {
    let mut meter = Meter::default();
    walk(dir, &mut meter)?;
    Ok(meter.usage)
}

/// Returns the disk usage of the directory `path` and of everything below it, without mounted file
/// systems and directories that cannot be read. An inode with several names counts once. Returns a
/// usage of zero if the directory `path` is absent or cannot be opened. After another error,
/// returns the usage that was counted before the error.
#[must_use]
pub fn measure_readable(path: &std::path::Path) -> Usage {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut meter = Meter {
        skips: true,
        ..Meter::default()
    };
    if let Ok(dir) = calls::open(path, flags, Mode::empty())
        && let Ok(stat) = calls::fstat(&dir)
    {
        meter.usage += usage_of(&stat);
        // An error ends the walk. What was counted before it is better than nothing.
        let _ = walk(&dir, &mut meter);
    }
    meter.usage
}

/// Returns the path at which the kernel shows a file descriptor of this process.
pub(crate) fn proc_path(fd: BorrowedFd<'_>) -> String {
    use std::os::fd::AsRawFd;
    format!("/proc/self/fd/{}", fd.as_raw_fd())
}

/// Returns a path of the entry `name` of an open directory, for calls that take only a path.
pub fn proc_path_of(dir: BorrowedFd<'_>, name: &[u8]) -> Vec<u8> {
    [proc_path(dir).as_bytes(), b"/", name].concat()
}
