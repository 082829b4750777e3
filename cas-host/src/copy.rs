//! Copies a tree with owners, modes, extended attributes, times, hard links, devices and holes.
//! If the file system has reflinks, the copy shares the bytes of files.

use std::collections::HashMap;
use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use cas_core::error::{Context, Result};
use cas_core::limit;
use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Stat, Timespec, Timestamps, Uid};
use rustix::io::Errno;
use rustix::path::Arg;

use crate::attributes::Attributes;
use crate::calls;
use crate::copy_data::{copy_extent, copy_with_holes};
use crate::tree::{At, Visit, walk};

/// Prefixes of the attributes of overlayfs.
const OVERLAY: [&[u8]; 2] = [b"trusted.overlay.", b"user.overlay."];

/// Copies everything below `from` into `to`, which must be empty. No other process may use `to`
/// meanwhile.
///
/// # Errors
/// `Busy` if a directory below `from` is a mount point; `Unavailable` if a directory below `from`
/// is moved meanwhile; errors of the file system, with the path.
pub fn copy_tree(from: impl AsFd, to: impl AsFd) -> Result<()> {
    let root = to.as_fd();
    let mut copier = Copier {
        root,
        here: root.try_clone_to_owned().during("copy", "a tree")?,
        path: Vec::new(),
        links: HashMap::new(),
        can_reflink: true,
    };
    walk(from, &mut copier)
}

struct Copier<'a> {
    root: BorrowedFd<'a>,
    /// The directory that is being written.
    here: OwnedFd,
    /// The path of `here` below `root`, with a slash after each name.
    path: Vec<u8>,
    /// The first copied name of each inode with several names.
    links: HashMap<(u64, u64), CString>,
    /// False after a reflink has failed.
    can_reflink: bool,
}

impl Visit for Copier<'_> {
    fn entry(&mut self, at: At<'_>) -> io::Result<()> {
        if at.stat.st_nlink > 1 && self.link_to_copy(at)? {
            return Ok(());
        }
        match at.file_type() {
            FileType::RegularFile => self.copy_file(at)?,
            FileType::Symlink => {
                let target = calls::readlinkat(at.dir, at.name)?;
                calls::symlinkat(&target, &self.here, at.name)?;
                self.copy_metadata_by_name(at)?;
            }
            kind => {
                calls::mknodat(&self.here, at.name, kind, Mode::empty(), at.stat.st_rdev)?;
                self.copy_metadata_by_name(at)?;
                // The mode is set after the owner, because a change of the owner clears the set-id
                // bits.
                calls::chmodat(&self.here, at.name, mode(at.stat), AtFlags::empty())?;
            }
        }
        Ok(())
    }

    fn enter(&mut self, at: At<'_>) -> io::Result<()> {
        calls::mkdirat(&self.here, at.name, Mode::RWXU)?;
        self.here = open_dir(&self.here, at.name)?;
        self.path.extend_from_slice(at.name.to_bytes());
        self.path.push(b'/');
        Ok(())
    }

    /// Copies the metadata of a directory last, because changes in it change its times.
    fn leave(&mut self, at: At<'_>, child: BorrowedFd<'_>) -> io::Result<()> {
        copy_metadata(at.stat, child, self.here.as_fd(), all)?;
        self.path
            .truncate(self.path.len() - at.name.count_bytes() - 1);
        self.here = open_dir(&self.here, c"..")?;
        Ok(())
    }
}

impl Copier<'_> {
    /// Links an entry to the copy of its inode. If there is none yet, records the path of the
    /// entry, which is copied next, and returns false.
    fn link_to_copy(&mut self, at: At<'_>) -> Result<bool, Errno> {
        if let Some(first) = self.links.get(&at.identity()) {
            let plain = AtFlags::empty();
            let (above, rest) = shorten(self.root, first.to_bytes())?;
            let from = above.as_ref().map_or(self.root, AsFd::as_fd);
            calls::linkat(from, rest, &self.here, at.name, plain)?;
            return Ok(true);
        }
        let path = [&self.path, at.name.to_bytes()].concat();
        let path = CString::new(path).map_err(|_| Errno::INVAL)?;
        self.links.insert(at.identity(), path);
        Ok(false)
    }

    fn copy_file(&mut self, at: At<'_>) -> Result<(), Errno> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let from = calls::openat(at.dir, at.name, flags, Mode::empty())?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let to = calls::openat(&self.here, at.name, flags, Mode::RUSR | Mode::WUSR)?;
        if at.stat.st_size > 0 && !self.reflink(&from, &to)? {
            let size = u64::try_from(at.stat.st_size).unwrap_or(0);
            if u64::try_from(at.stat.st_blocks).unwrap_or(0) * 512 >= size {
                copy_extent(from.as_fd(), 0..size, to.as_fd(), 0)?;
            } else {
                copy_with_holes(from.as_fd(), size, to.as_fd(), 0)?;
                calls::ftruncate(&to, size)?;
            }
        }
        copy_metadata(at.stat, from.as_fd(), to.as_fd(), all)
    }

    /// Shares the bytes of a file. Returns false if the file system cannot.
    fn reflink(&mut self, from: &OwnedFd, to: &OwnedFd) -> Result<bool, Errno> {
        if !self.can_reflink {
            return Ok(false);
        }
        match calls::ioctl_ficlone(to, from) {
            Ok(()) => Ok(true),
            Err(Errno::OPNOTSUPP | Errno::XDEV | Errno::INVAL | Errno::NOTTY | Errno::NOSYS) => {
                self.can_reflink = false;
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    /// Copies owner, extended attributes and times of an entry that cannot be opened.
    fn copy_metadata_by_name(&self, at: At<'_>) -> Result<(), Errno> {
        let (here, nofollow) = (self.here.as_fd(), AtFlags::SYMLINK_NOFOLLOW);
        calls::chownat(here, at.name, uid(at.stat), gid(at.stat), nofollow)?;
        Attributes::named(at.dir, at.name)?.copy_to(&Attributes::named(here, at.name)?, all)?;
        calls::utimensat(here, at.name, &times(at.stat), nofollow)
    }
}

/// Copies owner, mode, extended attributes and times from one directory to another, without the
/// attributes of overlayfs.
///
/// # Errors
/// Errors of the file system.
pub fn copy_attributes(from: impl AsFd, to: impl AsFd) -> Result<()> {
    let (from, to) = (from.as_fd(), to.as_fd());
    let copied =
        calls::fstat(from).and_then(|stat| copy_metadata(&stat, from, to, is_not_of_overlayfs));
    copied
        .map_err(io::Error::from)
        .during("copy", "attributes of a directory")
}

/// Copies owner, mode, extended attributes and times of a file or a directory. They are set in this
/// order because setting one of them may reset the next ones.
fn copy_metadata(
    stat: &Stat,
    from: BorrowedFd<'_>,
    to: BorrowedFd<'_>,
    wanted: fn(&[u8]) -> bool,
) -> Result<(), Errno> {
    calls::fchown(to, uid(stat), gid(stat))?;
    calls::fchmod(to, mode(stat))?;
    Attributes::Open(from).copy_to(&Attributes::Open(to), wanted)?;
    calls::futimens(to, &times(stat))
}

/// Selects every attribute, because a copied tree may contain layers of other overlays.
fn all(_: &[u8]) -> bool {
    true
}

fn is_not_of_overlayfs(name: &[u8]) -> bool {
    !OVERLAY.iter().any(|prefix| name.starts_with(prefix))
}

/// Returns a path that is short enough for a call, and the directory in which it begins, or `None`
/// if it begins in `root`, as `path` does.
fn shorten<'a>(root: BorrowedFd<'_>, path: &'a [u8]) -> Result<(Option<OwnedFd>, &'a [u8]), Errno> {
    let (mut above, mut rest) = (None::<OwnedFd>, path);
    while rest.len() >= limit::PATH {
        let end = rest[..limit::PATH].iter().rposition(|byte| *byte == b'/');
        let end = end.ok_or(Errno::NAMETOOLONG)?;
        let from = above.as_ref().map_or(root, AsFd::as_fd);
        above = Some(open_dir(from, &rest[..end])?);
        rest = &rest[end + 1..];
    }
    Ok((above, rest))
}

fn open_dir(dir: impl AsFd + Copy, name: impl Arg + Copy) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    calls::openat(dir, name, flags, Mode::empty())
}

fn uid(stat: &Stat) -> Option<Uid> {
    Some(Uid::from_raw(stat.st_uid))
}

fn gid(stat: &Stat) -> Option<Gid> {
    Some(Gid::from_raw(stat.st_gid))
}

fn mode(stat: &Stat) -> Mode {
    Mode::from_raw_mode(stat.st_mode & 0o7777)
}

fn times(stat: &Stat) -> Timestamps {
    Timestamps {
        last_access: Timespec {
            tv_sec: stat.st_atime,
            tv_nsec: stat.st_atime_nsec as _,
        },
        last_modification: Timespec {
            tv_sec: stat.st_mtime,
            tv_nsec: stat.st_mtime_nsec as _,
        },
    }
}
