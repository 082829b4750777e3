//! Writes the changes of an overlay as a layer.
//!
//! The upper directory of an overlay has everything that was changed. If the layer is applied on
//! top of the lower layers of the overlay, the result is the tree that the overlay shows.
//!
//! - Members have the order of the tree: a directory, and then its entries by name, subdirectories
//!   last. The same changes give the same bytes.
//! - The whiteouts of overlayfs (character devices 0:0, and empty files with the attribute
//!   `overlay.whiteout`) become whiteouts of a layer. A directory whose attribute `overlay.opaque`
//!   is `y` gets an opaque whiteout, except for the root, which an overlay always merges.
//! - A file with several names becomes one member with its content, and a hard link to this member
//!   for each further name. Sparse files are written with the zeros of their holes.
//! - Left out: the attributes of this overlay; the attributes `security.selinux` and
//!   `system.nfs4_acl`, which belong to the host; and, with a warning, all other attributes that
//!   [`apply`](crate::apply) never sets, such as those that an overlay inside the tree has set.
//! - A socket is left out with a warning. A whiteout takes its place, because the socket may hide
//!   something in the layers below.

use std::collections::HashMap;
use std::ffi::CStr;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};

use cas_core::{Context, Error, Result};
use cas_host::{At, Attribute, Visit, attributes, calls, overlay, walk};
use rustix::fs::{FileType, Mode, OFlags, Stat, major, minor};

use crate::Warnings;
use crate::apply::{Whiteout, is_of_host, is_set, os};
use crate::tar::{Device, Entry, EntryKind, Excerpt, Time, Writer};

/// The result of [`write()`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Written {
    /// Number of members, including whiteouts.
    pub entries: u64,
    /// Warnings about sockets and attributes that were left out: the list that [`Warnings::list`]
    /// returns.
    pub warnings: Vec<String>,
}

/// Writes the changes in the upper directory of an overlay to `out`, as a tar archive. Nothing may
/// change the directory meanwhile. `out` is not flushed. Returns what was done.
///
/// The overlay must be one that this process could mount, because this function expects the
/// attributes of the overlay to be `user.overlay.*` if the process is in a user namespace, and
/// `trusted.overlay.*` otherwise.
///
/// # Errors
/// `Unsupported` for what a layer cannot express: a name that begins with `.wh.`, an attribute with
/// a `=` in its name, and files and directories that an overlay with `metacopy` or `redirect_dir`
/// has moved or changed; `OutOfRange` if a bound of [`limit`](cas_core::limit) is exceeded;
/// `FailedPrecondition` for a file that is replaced or becomes shorter meanwhile; `Busy` at a mount
/// point; `Unavailable` if a directory is moved meanwhile; errors of the file system and of `out`.
/// After an error, `out` has received a part of the layer.
pub fn write(upper: impl AsFd, out: impl Write) -> Result<Written> {
    write_marked(upper.as_fd(), overlay::attribute_prefix()?, out)
}

fn write_marked(upper: BorrowedFd<'_>, prefix: &'static str, out: impl Write) -> Result<Written> {
    let mut changes = Changes {
        layer: Writer::new(out),
        prefix: prefix.as_bytes(),
        path: Vec::new(),
        linked: HashMap::new(),
        warnings: Warnings::default(),
    };
    let stat = os(calls::fstat(upper))?;
    changes
        .directory(upper, c".", &stat)
        .during("write", "./")?;
    walk(upper, &mut changes)?;
    let entries = changes.layer.entries();
    changes.layer.finish()?;
    Ok(Written {
        entries,
        warnings: changes.warnings.list(),
    })
}

/// The walk through an upper directory.
struct Changes<W> {
    layer: Writer<W>,
    /// The beginning of the names of the overlay's own attributes.
    prefix: &'static [u8],
    /// The path of the current directory, with a slash after each name. Empty for the root.
    path: Vec<u8>,
    /// The path of the first name of each inode with several names.
    linked: HashMap<(u64, u64), Vec<u8>>,
    warnings: Warnings,
}

/// The extended attributes of a file in an upper directory.
#[derive(Default)]
struct Attributes {
    /// The attributes that belong to the layer.
    kept: Vec<Attribute>,
    opaque: bool,
    whiteout: bool,
}

impl<W: Write> Visit for Changes<W> {
    fn entry(&mut self, at: At<'_>) -> io::Result<()> {
        let path = self.path_of(at.name);
        let added = self.add(at, &path);
        Ok(added.during("write", Excerpt(&path))?)
    }

    fn enter(&mut self, at: At<'_>) -> io::Result<()> {
        self.path = self.path_of(at.name);
        self.path.push(b'/');
        let written = Whiteout::check_file(at.name.to_bytes())
            .and_then(|()| self.directory(at.dir, at.name, at.stat));
        Ok(written.during("write", Excerpt(&self.path))?)
    }

    fn leave(&mut self, at: At<'_>, _: BorrowedFd<'_>) -> io::Result<()> {
        let parent = self.path.len() - at.name.count_bytes() - 1;
        self.path.truncate(parent);
        Ok(())
    }
}

impl<W: Write> Changes<W> {
    fn path_of(&self, name: &CStr) -> Vec<u8> {
        [&self.path, name.to_bytes()].concat()
    }

    /// Writes a directory. If the directory is opaque, the first member in it is an opaque
    /// whiteout.
    fn directory(&mut self, dir: BorrowedFd<'_>, name: &CStr, stat: &Stat) -> Result<()> {
        let found = self.attributes(dir, name)?;
        let is_root = self.path.is_empty();
        let path = if is_root {
            b"./".to_vec()
        } else {
            self.path.clone()
        };
        self.append(&path, EntryKind::Directory, stat, found.kept, io::empty())?;
        match found.opaque && !is_root {
            true => self.whiteout(&Whiteout::Opaque),
            false => Ok(()),
        }
    }

    /// Writes an entry that is not a directory.
    fn add(&mut self, at: At<'_>, path: &[u8]) -> Result<()> {
        let name = at.name.to_bytes();
        Whiteout::check_file(name)?;
        if at.file_type() == FileType::CharacterDevice && at.stat.st_rdev == 0 {
            return self.whiteout(&Whiteout::Name(name));
        }
        if at.file_type() == FileType::Socket {
            self.warnings.add(&format!(
                "the socket {} is left out, because a layer cannot have sockets",
                Excerpt(path)
            ));
            // It may have taken the place of something in a layer below.
            return self.whiteout(&Whiteout::Name(name));
        }
        if let Some(first) = self.linked.get(&at.identity()) {
            let kind = EntryKind::Hardlink(first.clone());
            return self.append(path, kind, at.stat, Vec::new(), io::empty());
        }
        let found = self.attributes(at.dir, at.name)?;
        let is_file = at.file_type() == FileType::RegularFile;
        if found.whiteout && is_file && at.stat.st_size == 0 {
            return self.whiteout(&Whiteout::Name(name));
        }
        if at.stat.st_nlink > 1 {
            self.linked.insert(at.identity(), path.to_vec());
        }
        if is_file {
            let file = open(at)?;
            return self.append(path, EntryKind::File, at.stat, found.kept, file);
        }
        let kind = match at.file_type() {
            FileType::Symlink => {
                EntryKind::Symlink(os(calls::readlinkat(at.dir, at.name))?.into_bytes())
            }
            FileType::CharacterDevice => EntryKind::Char(device(at.stat)),
            FileType::BlockDevice => EntryKind::Block(device(at.stat)),
            FileType::Fifo => EntryKind::Fifo,
            _ => {
                return Err(Error::unsupported(
                    "the file has a type that no layer can express; remove it",
                ));
            }
        };
        self.append(path, kind, at.stat, found.kept, io::empty())
    }

    fn append(
        &mut self,
        path: &[u8],
        kind: EntryKind,
        stat: &Stat,
        xattrs: Vec<Attribute>,
        body: impl Read,
    ) -> Result<()> {
        let size = match kind {
            EntryKind::File => u64::try_from(stat.st_size).unwrap_or(0),
            _ => 0,
        };
        let entry = Entry {
            uid: stat.st_uid,
            gid: stat.st_gid,
            mtime: Time {
                seconds: stat.st_mtime,
                nanoseconds: stat.st_mtime_nsec as u32,
            },
            xattrs,
            ..Entry::plain(path, kind, stat.st_mode & 0o7777, size)
        };
        self.layer.append(&entry, body)
    }

    /// Writes a whiteout in the current directory.
    fn whiteout(&mut self, whiteout: &Whiteout<'_>) -> Result<()> {
        let path = [&self.path[..], &whiteout.name()].concat();
        let whiteout = Entry::plain(path, EntryKind::File, 0, 0);
        self.layer.append(&whiteout, io::empty())
    }

    /// Returns the attributes of the entry `name` of a directory.
    ///
    /// # Errors
    /// `Unsupported` if the overlay has put only a part of the entry here.
    fn attributes(&mut self, dir: BorrowedFd<'_>, name: &CStr) -> Result<Attributes> {
        let mut found = Attributes::default();
        for (name, value) in os(attributes(dir, name))? {
            match name.strip_prefix(self.prefix) {
                Some(b"opaque") => found.opaque = value == b"y",
                Some(b"whiteout") => found.whiteout = true,
                Some(b"metacopy" | b"redirect") => {
                    return Err(Error::unsupported(format!(
                        "the xattr {} states that the overlay has moved the file, or has copied \
                         only its metadata; mount the overlay with metacopy=off and \
                         redirect_dir=off, and change the file again",
                        Excerpt(&name)
                    )));
                }
                Some(own) if !own.starts_with(b"overlay.") => {}
                None if is_set(&name) => found.kept.push((name, value)),
                None if is_of_host(&name) => {}
                _ => self.warnings.add(&format!(
                    "the xattr {} is left out, because layers may not set it",
                    Excerpt(&name)
                )),
            }
        }
        Ok(found)
    }
}

/// Opens a file for reading. Fails if another file has its name by now.
fn open(at: At<'_>) -> Result<File> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = os(calls::openat(at.dir, at.name, flags, Mode::empty()))?;
    let found = os(calls::fstat(&file))?;
    if (found.st_dev, found.st_ino) != at.identity() {
        return Err(Error::precondition(
            "the file was replaced while the changes were read; repeat the command when no program \
             changes the files",
        ));
    }
    Ok(file.into())
}

fn device(stat: &Stat) -> Device {
    Device {
        major: major(stat.st_rdev),
        minor: minor(stat.st_rdev),
    }
}
