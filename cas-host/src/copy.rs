//! Copying a tree with all that belongs to it: owners, modes, extended attributes, times, hard
//! links, devices and holes. Bytes are shared where the file system can.

use std::collections::HashMap;
use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use cas_core::error::{Context, Result};
use cas_core::limit;
use rustix::fs::{
    AtFlags, FileType, Gid, Mode, OFlags, SeekFrom, Stat, Timespec, Timestamps, Uid, XattrFlags,
};
use rustix::io::Errno;

use crate::tree::{At, Visit, proc_path, walk};

const PIECE: usize = 256 << 10;
/// Attributes that say how a directory lies over others.
const OVERLAY: [&[u8]; 2] = [b"trusted.overlay.", b"user.overlay."];

/// Copies what lies below `from` into `to`, which is empty and nobody else's.
///
/// # Errors
/// `Busy` where something is mounted below; those of the file system, naming the path.
pub fn copy_tree(from: impl AsFd, to: impl AsFd) -> Result<()> {
    let root = to.as_fd();
    let mut copier = Copier {
        root,
        here: root.try_clone_to_owned().during("copy", "a tree")?,
        path: Vec::new(),
        links: HashMap::new(),
        reflink: true,
        buffer: vec![0; PIECE],
    };
    walk(from, &mut copier)
}

/// Copies up to `length` bytes of a file into another without a way through this process, shared
/// where the file system can; how many. None where the first ends, or the kernel cannot.
///
/// # Errors
/// Those of the file system.
pub fn copy_range(
    from: impl AsFd,
    at: u64,
    to: impl AsFd,
    offset: u64,
    length: usize,
) -> io::Result<usize> {
    Ok(range(from.as_fd(), at, to.as_fd(), offset, length)?)
}

fn range(
    from: BorrowedFd<'_>,
    mut at: u64,
    to: BorrowedFd<'_>,
    mut offset: u64,
    length: usize,
) -> Result<usize, Errno> {
    let (read, written) = (Some(&mut at), Some(&mut offset));
    match rustix::fs::copy_file_range(from, read, to, written, length) {
        Err(Errno::XDEV | Errno::NOSYS | Errno::INVAL | Errno::OPNOTSUPP) => Ok(0),
        copied => copied,
    }
}

struct Copier<'a> {
    root: BorrowedFd<'a>,
    /// The directory that is being filled.
    here: OwnedFd,
    /// Its path below `root`, each name with a slash behind it.
    path: Vec<u8>,
    /// The first name of each inode that has several.
    links: HashMap<(u64, u64), CString>,
    /// Whether sharing bytes has not yet been refused.
    reflink: bool,
    buffer: Vec<u8>,
}

impl Visit for Copier<'_> {
    fn entry(&mut self, at: At<'_>) -> Result<(), Errno> {
        if at.stat.st_nlink > 1 && self.linked(at)? {
            return Ok(());
        }
        match at.file_type() {
            FileType::RegularFile => self.file(at),
            FileType::Symlink => {
                let target = rustix::fs::readlinkat(at.dir, at.name, Vec::new())?;
                rustix::fs::symlinkat(&target, &self.here, at.name)?;
                self.attributes(at)
            }
            kind => {
                rustix::fs::mknodat(&self.here, at.name, kind, Mode::empty(), at.stat.st_rdev)?;
                rustix::fs::chownat(
                    &self.here,
                    at.name,
                    uid(at.stat),
                    gid(at.stat),
                    AtFlags::empty(),
                )?;
                rustix::fs::chmodat(&self.here, at.name, mode(at.stat), AtFlags::empty())?;
                self.attributes(at)
            }
        }
    }

    fn enter(&mut self, at: At<'_>) -> Result<(), Errno> {
        rustix::fs::mkdirat(&self.here, at.name, Mode::RWXU)?;
        self.here = open_dir(&self.here, at.name)?;
        self.path.extend_from_slice(at.name.to_bytes());
        self.path.push(b'/');
        Ok(())
    }

    /// A directory gets its attributes when nothing changes in it any more.
    fn leave(&mut self, at: At<'_>, child: BorrowedFd<'_>) -> Result<(), Errno> {
        describe(at.stat, child, self.here.as_fd(), all)?;
        self.path
            .truncate(self.path.len() - at.name.count_bytes() - 1);
        self.here = open_dir(&self.here, c"..")?;
        Ok(())
    }
}

impl Copier<'_> {
    /// Links to the copy of the same inode, where there is one.
    fn linked(&mut self, at: At<'_>) -> Result<bool, Errno> {
        if let Some(first) = self.links.get(&at.identity()) {
            let plain = AtFlags::empty();
            rustix::fs::linkat(self.root, first, &self.here, at.name, plain)?;
            return Ok(true);
        }
        let path = [&self.path, at.name.to_bytes()].concat();
        let path = CString::new(path).map_err(|_| Errno::INVAL)?;
        self.links.insert(at.identity(), path);
        Ok(false)
    }

    fn file(&mut self, at: At<'_>) -> Result<(), Errno> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let from = rustix::fs::openat(at.dir, at.name, flags, Mode::empty())?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let to = rustix::fs::openat(&self.here, at.name, flags, Mode::RUSR | Mode::WUSR)?;
        if at.stat.st_size > 0 && !self.share(&from, &to)? {
            self.ranges(&from, &to, at.stat)?;
        }
        describe(at.stat, from.as_fd(), to.as_fd(), all)
    }

    /// Shares the bytes of a file, where the file system can.
    fn share(&mut self, from: &OwnedFd, to: &OwnedFd) -> Result<bool, Errno> {
        if !self.reflink {
            return Ok(false);
        }
        match rustix::fs::ioctl_ficlone(to, from) {
            Ok(()) => Ok(true),
            Err(Errno::OPNOTSUPP | Errno::XDEV | Errno::INVAL | Errno::NOTTY | Errno::NOSYS) => {
                self.reflink = false;
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    /// Copies the bytes of a file and leaves its holes.
    fn ranges(&mut self, from: &OwnedFd, to: &OwnedFd, stat: &Stat) -> Result<(), Errno> {
        let size = u64::try_from(stat.st_size).unwrap_or(0);
        let dense = u64::try_from(stat.st_blocks).unwrap_or(0) * 512 >= size;
        if dense {
            return self.range(from, to, 0, size);
        }
        let mut at = 0;
        while let Some(start) = seek(from, SeekFrom::Data(at), size)? {
            let end = seek(from, SeekFrom::Hole(start), size)?.unwrap_or(size);
            self.range(from, to, start, end)?;
            at = end;
        }
        rustix::fs::ftruncate(to, size)
    }

    fn range(&mut self, from: &OwnedFd, to: &OwnedFd, start: u64, end: u64) -> Result<(), Errno> {
        let mut at = start;
        while at < end {
            let rest = usize::try_from(end - at).unwrap_or(usize::MAX);
            match range(from.as_fd(), at, to.as_fd(), at, rest)? {
                0 => return self.through_memory(from, to, at, end),
                copied => at += copied as u64,
            }
        }
        Ok(())
    }

    fn through_memory(
        &mut self,
        from: &OwnedFd,
        to: &OwnedFd,
        mut at: u64,
        end: u64,
    ) -> Result<(), Errno> {
        while at < end {
            let most = usize::try_from(end - at).map_or(PIECE, |rest| rest.min(PIECE));
            let read = rustix::io::pread(from, &mut self.buffer[..most], at)?;
            if read == 0 {
                return Err(Errno::IO);
            }
            let mut piece = &self.buffer[..read];
            while !piece.is_empty() {
                let written = rustix::io::pwrite(to, piece, at)?;
                piece = &piece[written..];
                at += written as u64;
            }
        }
        Ok(())
    }

    /// Owner, extended attributes and times of what cannot be opened.
    fn attributes(&self, at: At<'_>) -> Result<(), Errno> {
        let (here, nofollow) = (self.here.as_fd(), AtFlags::SYMLINK_NOFOLLOW);
        rustix::fs::chownat(here, at.name, uid(at.stat), gid(at.stat), nofollow)?;
        Attributes::named(at.dir, at.name)?.copy_to(&Attributes::named(here, at.name)?, all)?;
        rustix::fs::utimensat(here, at.name, &times(at.stat), nofollow)
    }
}

/// Gives the directory `to` owner, mode, extended attributes and times of `from`, but for those
/// that steer an overlay.
///
/// # Errors
/// Those of the file system.
pub fn copy_attributes(from: impl AsFd, to: impl AsFd) -> Result<()> {
    let (from, to) = (from.as_fd(), to.as_fd());
    let copied = rustix::fs::fstat(from).and_then(|stat| describe(&stat, from, to, is_no_overlays));
    copied
        .map_err(std::io::Error::from)
        .during("copy", "attributes of a directory")
}

/// Owner, mode, extended attributes and times of a file or a directory; in this order, for each
/// of them may undo part of the one after it.
fn describe(
    stat: &Stat,
    from: BorrowedFd<'_>,
    to: BorrowedFd<'_>,
    wanted: fn(&[u8]) -> bool,
) -> Result<(), Errno> {
    rustix::fs::fchown(to, uid(stat), gid(stat))?;
    rustix::fs::fchmod(to, mode(stat))?;
    Attributes::Open(from).copy_to(&Attributes::Open(to), wanted)?;
    rustix::fs::futimens(to, &times(stat))
}

/// Every attribute: a tree that is copied may have overlays of its own in it.
fn all(_: &[u8]) -> bool {
    true
}

fn is_no_overlays(name: &[u8]) -> bool {
    !OVERLAY.iter().any(|prefix| name.starts_with(prefix))
}

/// Where extended attributes are read or written.
enum Attributes<'a> {
    Open(BorrowedFd<'a>),
    /// A path that is not followed.
    Named(CString),
}

impl Attributes<'_> {
    fn named(dir: BorrowedFd<'_>, name: &std::ffi::CStr) -> Result<Self, Errno> {
        let path = [proc_path(dir).as_bytes(), b"/", name.to_bytes()].concat();
        CString::new(path)
            .map(Attributes::Named)
            .map_err(|_| Errno::INVAL)
    }

    /// Copies those whose names are wanted.
    fn copy_to(&self, to: &Attributes<'_>, wanted: fn(&[u8]) -> bool) -> Result<(), Errno> {
        let names = match self.list() {
            Err(Errno::OPNOTSUPP) => return Ok(()),
            names => names?,
        };
        let names = names.split_inclusive(|byte| *byte == 0);
        for name in names.filter(|name| wanted(name)) {
            let name = std::ffi::CStr::from_bytes_with_nul(name).map_err(|_| Errno::INVAL)?;
            to.set(name, &self.value(name)?)?;
        }
        Ok(())
    }

    fn list(&self) -> Result<Vec<u8>, Errno> {
        whole(|buffer| match self {
            Attributes::Open(fd) => rustix::fs::flistxattr(fd, buffer),
            Attributes::Named(path) => rustix::fs::llistxattr(path, buffer),
        })
    }

    fn value(&self, name: &std::ffi::CStr) -> Result<Vec<u8>, Errno> {
        whole(|buffer| match self {
            Attributes::Open(fd) => rustix::fs::fgetxattr(fd, name, buffer),
            Attributes::Named(path) => rustix::fs::lgetxattr(path, name, buffer),
        })
    }

    fn set(&self, name: &std::ffi::CStr, value: &[u8]) -> Result<(), Errno> {
        match self {
            Attributes::Open(fd) => rustix::fs::fsetxattr(fd, name, value, XattrFlags::empty()),
            Attributes::Named(path) => {
                rustix::fs::lsetxattr(path, name, value, XattrFlags::empty())
            }
        }
    }
}

/// All of a list of names or of a value; most are short, and none is longer than the limit.
fn whole(read: impl Fn(&mut [u8]) -> Result<usize, Errno>) -> Result<Vec<u8>, Errno> {
    let mut buffer = vec![0; 256];
    let length = match read(&mut buffer) {
        Err(Errno::RANGE) => {
            buffer.resize(limit::XATTR, 0);
            read(&mut buffer)?
        }
        length => length?,
    };
    buffer.truncate(length);
    Ok(buffer)
}

fn seek(file: &OwnedFd, to: SeekFrom, size: u64) -> Result<Option<u64>, Errno> {
    match rustix::fs::seek(file, to) {
        Ok(at) if at < size => Ok(Some(at)),
        Ok(_) | Err(Errno::NXIO) => Ok(None),
        Err(error) => Err(error),
    }
}

fn open_dir(dir: &OwnedFd, name: &std::ffi::CStr) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(dir, name, flags, Mode::empty())
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
