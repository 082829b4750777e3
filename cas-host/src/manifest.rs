//! The manifest of a snapshot's tree. It has the attributes of each entry, and a checksum of the
//! bytes of each file, as they were when the manifest was written, before the snapshot was
//! committed. Damage can therefore be found later. The root directory of the tree is an entry, too.
//!
//! ```text
//! MANIFEST     `version 2`, one line for each entry, in no particular order, and `end COUNT`
//! LINE         TYPE MODE UID GID SIZE SECONDS.NANOSECONDS DEVICE XATTRS MORE PATH
//! ```
//! COUNT is the number of entries. MODE is octal, XATTRS and MORE are hexadecimal. SIZE is `-` for
//! a directory. SECONDS.NANOSECONDS is the time of the last modification. XATTRS is a hash of the
//! extended attributes that a layer can set, or 0 if there are none. For a file, MORE is a checksum
//! of its bytes. For a symbolic link, MORE is a hash of its target. MORE is 0 for other entries,
//! and for a file that cannot be read. In PATH, each space, each backslash and each byte that is
//! not printable ASCII is written as `\xHH`. The root directory has the PATH `/` and the time 0.
//!
//! Manifests of earlier releases do not have the first line, XATTRS and the root directory. In
//! them, the MORE of a directory is a hash of all its extended attributes, or 0 if it had none, and
//! the checksum of a file also covers its holes and zeros.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::fs::File;
use std::hash::{BuildHasher, RandomState};
use std::io::{self, BufRead, BufReader, BufWriter, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use cas_core::Digest;
use cas_core::error::Result;
use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;

use crate::attributes::Attributes;
use crate::calls;
use crate::checksum::Sums;
use crate::tree::{At, Visit, open_below, walk};

/// Maximum number of differences that are described.
const DESCRIBED: usize = 5;
/// The MORE of an entry without a checksum or a hash. In a manifest, this value matches whatever
/// the entry has now. A checksum is never 0.
const UNREAD: u64 = 0;
/// The first line of a manifest of [`Format::Second`].
const SECOND: &str = "version 2";
/// The beginnings of the names of extended attributes that a layer can set. The host sets and
/// changes others itself, such as the labels of SELinux.
const OF_LAYERS: [&[u8]; 4] = [
    b"user.",
    b"trusted.",
    b"system.posix_acl_",
    b"security.capability",
];
/// The end of the name of an attribute that does not count. Overlayfs removes this attribute itself
/// if a directory is still mounted after its commit. It does not change what a layer shows.
const IMPURE: &[u8] = b".overlay.impure";

/// The format of a manifest.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Format {
    /// The format of earlier releases.
    First,
    Second,
}

/// Writes the manifest of everything below `dir`.
///
/// # Errors
/// `Unavailable` if a directory is moved meanwhile; errors of the file system.
pub(crate) fn write(dir: impl AsFd, manifest: File) -> Result<()> {
    let mut out = BufWriter::with_capacity(256 << 10, manifest);
    let mut count: u64 = 0;
    writeln!(out, "{SECOND}")?;
    each(dir, Format::Second, Some(Sums::new(None)), |entry| {
        count += 1;
        let Entry { line, more, path } = entry;
        writeln!(out, "{line} {more:x} {path}")
    })?;
    writeln!(out, "end {count}")?;
    Ok(out.flush()?)
}

/// Compares the tree below `dir` with its manifest. If `sums` is given, also compares the bytes of
/// files. Returns a text with the first differences, or `None` if there are none, or if the
/// manifest is incomplete or damaged. A loss of power may leave a manifest without an end.
///
/// # Errors
/// `Unavailable` if a directory is moved meanwhile; errors of the file system.
pub(crate) fn compare(
    dir: impl AsFd,
    manifest: &File,
    sums: Option<Sums>,
) -> Result<Option<String>> {
    let hashes = RandomState::new();
    let Some((format, mut expected)) = read(manifest, &hashes)? else {
        return Ok(None);
    };
    let mut differences = Differences::default();
    let reads = sums.is_some();
    let sums = match format {
        Format::First => sums.map(Sums::with_zeros),
        Format::Second => sums,
    };
    each(dir, format, sums, |entry| {
        let Entry { line, more, path } = entry;
        match expected.remove(&hashes.hash_one(path)) {
            None => differences.add(path, "was not committed"),
            Some((known, _)) if known != hashes.hash_one(line) => {
                differences.add(path, "was changed");
            }
            Some((_, known)) if known == more || known == UNREAD => {}
            Some(_) if !is_file(line) => differences.add(path, "was changed"),
            Some(_) if more == UNREAD && reads => differences.add(path, "cannot be read"),
            Some(_) if reads => differences.add(path, "has other bytes than at the commit"),
            Some(_) => {}
        }
        Ok(())
    })?;
    if !expected.is_empty() {
        for line in lines(manifest)? {
            let line = line?;
            if let Some(Entry { path, .. }) = Entry::parse(&line)
                && expected.contains_key(&hashes.hash_one(path))
            {
                differences.add(path, "is missing");
            }
        }
    }
    Ok(differences.describe())
}

#[derive(Default)]
struct Differences {
    count: u64,
    text: String,
}

impl Differences {
    fn add(&mut self, path: &str, what: &str) {
        if self.count < DESCRIBED as u64 {
            let comma = if self.count == 0 { "" } else { ", " };
            let _ = write!(self.text, "{comma}{path:.200} {what}");
        }
        self.count += 1;
    }

    fn describe(mut self) -> Option<String> {
        let more = self.count.saturating_sub(DESCRIBED as u64);
        if more > 0 {
            let _ = write!(self.text, ", and {more} more");
        }
        (self.count > 0).then_some(self.text)
    }
}

/// The hash of the part of a line before MORE, and MORE.
type Known = (u64, u64);

/// Reads a manifest. Returns its format, and a map from the hash of the path of each entry to the
/// two numbers of [`Known`]. Returns `None` if the manifest is incomplete or damaged, or has a
/// format of a later release.
fn read(manifest: &File, hashes: &RandomState) -> Result<Option<(Format, HashMap<u64, Known>)>> {
    let (mut format, mut entries) = (Format::First, HashMap::new());
    for (number, line) in lines(manifest)?.enumerate() {
        let line = line?;
        if number == 0 && line == SECOND {
            format = Format::Second;
            continue;
        }
        if let Some(count) = line.strip_prefix("end ") {
            let complete = count.parse() == Ok(entries.len());
            return Ok(complete.then_some((format, entries)));
        }
        let Some(Entry { line, more, path }) = Entry::parse(&line) else {
            return Ok(None);
        };
        entries.insert(hashes.hash_one(path), (hashes.hash_one(line), more));
    }
    Ok(None)
}

fn lines(manifest: &File) -> Result<impl Iterator<Item = io::Result<String>>> {
    use std::io::Seek;
    let mut file = manifest;
    file.rewind()?;
    // A line that is not UTF-8 is damaged. The iterator ends before it, as if the file ended there.
    Ok(BufReader::new(file).lines().take_while(|line| {
        !line
            .as_ref()
            .is_err_and(|error| error.kind() == io::ErrorKind::InvalidData)
    }))
}

/// A line of a manifest.
#[derive(Clone, Copy)]
struct Entry<'a> {
    /// The line up to MORE.
    line: &'a str,
    more: u64,
    path: &'a str,
}

impl<'a> Entry<'a> {
    /// Parses a line. Returns `None` if it does not describe an entry.
    fn parse(line: &'a str) -> Option<Self> {
        let (line, path) = line.rsplit_once(' ')?;
        let (line, more) = line.rsplit_once(' ')?;
        let more = u64::from_str_radix(more, 16).ok()?;
        Some(Entry { line, more, path })
    }
}

fn is_file(line: &str) -> bool {
    line.starts_with('f')
}

/// Calls `visit` with each entry of the tree `dir` that a manifest of this format has. Files are
/// read if `sums` is given.
fn each(
    dir: impl AsFd,
    format: Format,
    sums: Option<Sums>,
    visit: impl FnMut(Entry<'_>) -> io::Result<()>,
) -> Result<()> {
    let mut lister = Lister {
        visit,
        format,
        sums,
        linked: HashMap::new(),
        path: String::new(),
        line: String::new(),
        attributes: 0,
        failed: None,
    };
    let walked = match format {
        Format::First => Ok(()),
        Format::Second => lister.root(dir.as_fd()),
    };
    let walked = walked.and_then(|()| walk(&dir, &mut lister));
    match lister.failed {
        Some(error) => Err(error.into()),
        None => walked,
    }
}

struct Lister<F> {
    visit: F,
    format: Format,
    sums: Option<Sums>,
    /// The checksums of files with several names, by device and inode.
    linked: HashMap<(u64, u64), u64>,
    /// The escaped path of the current directory.
    path: String,
    line: String,
    /// The hash of the extended attributes of the directory that was opened last.
    attributes: u64,
    failed: Option<io::Error>,
}

impl<F: FnMut(Entry<'_>) -> io::Result<()>> Lister<F> {
    /// Visits the root directory of the tree. Its name is empty, so its path is `/`. Its time is
    /// left out, because a repair of a single file in it changes the time.
    fn root(&mut self, dir: BorrowedFd<'_>) -> Result<()> {
        let visited = calls::fstat(dir).and_then(|mut stat| {
            (stat.st_mtime, stat.st_mtime_nsec) = (0, 0);
            let at = At {
                dir,
                name: c"",
                stat: &stat,
            };
            self.list(at, attributes(&Attributes::Open(dir), is_of_layers)?, 0)
        });
        self.path.clear();
        Ok(visited.map_err(io::Error::from)?)
    }

    /// `attributes` is the hash of the extended attributes of the entry.
    fn list(&mut self, at: At<'_>, attributes: u64, more: u64) -> Result<(), Errno> {
        let stat = at.stat;
        let (kind, size) = match at.file_type() {
            FileType::Directory => ('d', None),
            FileType::RegularFile => ('f', Some(stat.st_size)),
            FileType::Symlink => ('l', Some(stat.st_size)),
            FileType::CharacterDevice => ('c', Some(0)),
            FileType::BlockDevice => ('b', Some(0)),
            FileType::Fifo => ('p', Some(0)),
            _ => ('s', Some(0)),
        };
        self.line.clear();
        let size = size.map_or("-".to_owned(), |size| size.to_string());
        let _ = write!(
            self.line,
            "{kind} {:o} {} {} {size} {}.{} {}",
            stat.st_mode & 0o7777,
            stat.st_uid,
            stat.st_gid,
            stat.st_mtime,
            stat.st_mtime_nsec,
            stat.st_rdev,
        );
        if self.format == Format::Second {
            let _ = write!(self.line, " {attributes:x}");
        }
        let length = self.path.len();
        self.push(at);
        let visited = (self.visit)(Entry {
            line: &self.line,
            more,
            path: &self.path,
        });
        if at.file_type() != FileType::Directory {
            self.path.truncate(length);
        }
        visited.map_err(|error| {
            self.failed = Some(error);
            Errno::IO
        })
    }

    /// Returns the checksum of a file, or [`UNREAD`] if files are not to be read or this file
    /// cannot be read.
    fn sum(&mut self, at: At<'_>) -> Result<u64, Errno> {
        let Some(sums) = &mut self.sums else {
            return Ok(UNREAD);
        };
        if let Some(known) = self.linked.get(&at.identity()) {
            return Ok(*known);
        }
        // The flags guard against a link or a pipe that has replaced the file since.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let sum = match calls::openat(at.dir, at.name, flags, Mode::empty()) {
            Err(Errno::ACCESS | Errno::PERM | Errno::IO) => UNREAD,
            opened => match sums.of(File::from(opened?)) {
                Ok(sum) => sum,
                Err(error) => match Errno::from_io_error(&error) {
                    Some(Errno::IO) | None => UNREAD,
                    Some(other) => return Err(other),
                },
            },
        };
        if at.stat.st_nlink > 1 {
            self.linked.insert(at.identity(), sum);
        }
        Ok(sum)
    }

    /// Adds the name of an entry to the path. A space is escaped, because it separates the path
    /// from the rest of the line.
    fn push(&mut self, at: At<'_>) {
        self.path.push('/');
        for byte in at.name.to_bytes() {
            match byte {
                b' ' | b'\\' | 0..0x20 | 0x7f.. => {
                    let _ = write!(self.path, "\\x{byte:02x}");
                }
                _ => self.path.push(char::from(*byte)),
            }
        }
    }
}

impl<F: FnMut(Entry<'_>) -> io::Result<()>> Visit for Lister<F> {
    fn entry(&mut self, at: At<'_>) -> io::Result<()> {
        let more = match at.file_type() {
            FileType::Symlink => hash(calls::readlinkat(at.dir, at.name)?.as_bytes()),
            FileType::RegularFile => self.sum(at)?,
            _ => 0,
        };
        let attributes = match self.format {
            Format::First => 0,
            Format::Second => attributes(&Attributes::named(at.dir, at.name)?, is_of_layers)?,
        };
        Ok(self.list(at, attributes, more)?)
    }

    fn open(&mut self, at: At<'_>) -> Result<OwnedFd, Errno> {
        let dir = open_below(at)?;
        let wanted: fn(&[u8]) -> bool = match self.format {
            Format::First => |_| true,
            Format::Second => is_of_layers,
        };
        self.attributes = attributes(&Attributes::Open(dir.as_fd()), wanted)?;
        Ok(dir)
    }

    fn enter(&mut self, at: At<'_>) -> io::Result<()> {
        let more = match self.format {
            Format::First => self.attributes,
            Format::Second => 0,
        };
        Ok(self.list(at, self.attributes, more)?)
    }

    fn leave(&mut self, _: At<'_>, _: BorrowedFd<'_>) -> io::Result<()> {
        let parent = self.path.rfind('/').unwrap_or_default();
        self.path.truncate(parent);
        Ok(())
    }

    /// A file system that is mounted in a tree is not part of the tree.
    fn mounted(&mut self) -> Result<()> {
        Ok(())
    }
}

/// Returns whether a layer can set an extended attribute of this name.
fn is_of_layers(name: &[u8]) -> bool {
    OF_LAYERS.iter().any(|prefix| name.starts_with(prefix)) && !name.ends_with(IMPURE)
}

/// Returns a hash of the extended attributes whose names `wanted` accepts, or 0 if there are none.
fn attributes(of: &Attributes<'_>, wanted: fn(&[u8]) -> bool) -> Result<u64, Errno> {
    let mut names = of.names(wanted)?;
    names.sort_unstable();
    let mut all = Vec::new();
    for name in &names {
        let value = match of.value(name) {
            Err(Errno::NODATA | Errno::ACCESS | Errno::PERM) => Vec::new(),
            value => value?,
        };
        for part in [name, &value] {
            all.extend_from_slice(part);
            all.push(0);
        }
    }
    Ok(if names.is_empty() { 0 } else { hash(&all) })
}

/// Returns the first 64 bits of the SHA-256 of `data`. Manifests of all releases contain such
/// hashes, so another hash must not be used.
fn hash(data: &[u8]) -> u64 {
    let digest = Digest::sha256(data);
    u64::from_str_radix(digest.hex().get(..16).unwrap_or_default(), 16).unwrap_or_default()
}

#[cfg(test)]
mod tests;
