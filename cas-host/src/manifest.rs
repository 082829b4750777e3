//! The manifest of a snapshot's tree. It has the attributes of each entry, and a checksum of the
//! bytes of each file, as they were when the manifest was written, before the snapshot was
//! committed. Damage can therefore be found later. A manifest does not contain the extended
//! attributes of files.
//!
//! ```text
//! MANIFEST     one line for each entry, in no particular order, and `end COUNT` as the last
//! LINE         TYPE MODE UID GID SIZE SECONDS.NANOSECONDS DEVICE MORE PATH
//! ```
//! COUNT is the number of entries. MODE is octal, and MORE is hexadecimal. SIZE is `-` for a
//! directory. SECONDS.NANOSECONDS is the time of the last modification. For a file, MORE is a
//! checksum of its bytes. For a symbolic link, MORE is a hash of its target. For a directory, MORE
//! is a hash of its extended attributes. MORE is 0 for other entries, for a directory without
//! extended attributes, and for a file that cannot be read. In PATH, each space, each backslash and
//! each byte that is not printable ASCII is written as `\xHH`.

use std::collections::HashMap;
use std::ffi::CString;
use std::fmt::Write as _;
use std::fs::File;
use std::hash::{BuildHasher, RandomState};
use std::io::{self, BufRead, BufReader, BufWriter, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use cas_core::Digest;
use cas_core::error::Result;
use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;

use crate::calls;
use crate::checksum::Sums;
use crate::tree::{At, Visit, open_below, walk};

/// Maximum number of differences that are described.
const DESCRIBED: usize = 5;
/// The MORE of an entry without a checksum or a hash. In a manifest, this value matches whatever
/// the entry has now. A checksum is never 0.
const UNREAD: u64 = 0;

/// Writes the manifest of everything below `dir`.
///
/// # Errors
/// `Unavailable` if a directory is moved meanwhile; errors of the file system.
pub(crate) fn write(dir: impl AsFd, manifest: File) -> Result<()> {
    let mut out = BufWriter::with_capacity(256 << 10, manifest);
    let mut count: u64 = 0;
    each(dir, Some(Sums::new(None)), |entry| {
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
    let Some(mut expected) = read(manifest, &hashes)? else {
        return Ok(None);
    };
    let mut differences = Differences::default();
    let reads = sums.is_some();
    each(dir, sums, |entry| {
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

/// Reads a manifest. Returns a map from the hash of the path of each entry to the two numbers of
/// [`Known`], or `None` if the manifest is incomplete or damaged.
fn read(manifest: &File, hashes: &RandomState) -> Result<Option<HashMap<u64, Known>>> {
    let mut entries = HashMap::new();
    for line in lines(manifest)? {
        let line = line?;
        if let Some(count) = line.strip_prefix("end ") {
            let complete = count.parse() == Ok(entries.len());
            return Ok(complete.then_some(entries));
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

/// Calls `visit` with each entry below `dir`. Files are read if `sums` is given.
fn each(
    dir: impl AsFd,
    sums: Option<Sums>,
    visit: impl FnMut(Entry<'_>) -> io::Result<()>,
) -> Result<()> {
    let mut lister = Lister {
        visit,
        sums,
        linked: HashMap::new(),
        path: String::new(),
        line: String::new(),
        more: 0,
        failed: None,
    };
    let walked = walk(dir, &mut lister);
    match lister.failed {
        Some(error) => Err(error.into()),
        None => walked,
    }
}

struct Lister<F> {
    visit: F,
    sums: Option<Sums>,
    /// The checksums of files with several names, by device and inode.
    linked: HashMap<(u64, u64), u64>,
    /// The escaped path of the current directory.
    path: String,
    line: String,
    /// The hash of the attributes of the directory that was opened last.
    more: u64,
    failed: Option<io::Error>,
}

impl<F: FnMut(Entry<'_>) -> io::Result<()>> Lister<F> {
    fn list(&mut self, at: At<'_>, more: u64) -> Result<(), Errno> {
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
        Ok(self.list(at, more)?)
    }

    fn open(&mut self, at: At<'_>) -> Result<OwnedFd, Errno> {
        let dir = open_below(at)?;
        self.more = attributes(&dir)?;
        Ok(dir)
    }

    fn enter(&mut self, at: At<'_>) -> io::Result<()> {
        Ok(self.list(at, self.more)?)
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

/// Returns a hash of the extended attributes of a directory, or 0 if it has none.
fn attributes(dir: &OwnedFd) -> Result<u64, Errno> {
    let mut names = vec![0; 64 << 10];
    let length = match calls::flistxattr(dir, &mut names) {
        Err(Errno::OPNOTSUPP) | Ok(0) => return Ok(0),
        length => length?,
    };
    let mut names: Vec<&[u8]> = names[..length].split(|byte| *byte == 0).collect();
    names.sort_unstable();
    let mut all = Vec::new();
    let mut value = vec![0; 64 << 10];
    for name in names.into_iter().filter(|name| !name.is_empty()) {
        let Ok(name) = CString::new(name) else {
            continue;
        };
        let length = match calls::fgetxattr(dir, name.as_c_str(), &mut value) {
            Err(Errno::NODATA | Errno::ACCESS | Errno::PERM) => 0,
            length => length?,
        };
        all.extend_from_slice(name.as_bytes_with_nul());
        all.extend_from_slice(&value[..length]);
        all.push(0);
    }
    Ok(hash(&all))
}

/// Returns the first 64 bits of the SHA-256 of `data`. Manifests of all releases contain such
/// hashes, so another hash must not be used.
fn hash(data: &[u8]) -> u64 {
    let digest = Digest::sha256(data);
    u64::from_str_radix(digest.hex().get(..16).unwrap_or_default(), 16).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::path::Path;

    use super::*;

    fn make(dir: &Path) {
        fs::create_dir_all(dir.join("etc/a b")).unwrap();
        fs::write(dir.join("etc/passwd"), "root").unwrap();
        fs::write(dir.join("etc/a b/new\nline\\"), "x").unwrap();
        symlink("passwd", dir.join("etc/link")).unwrap();
    }

    /// Returns the differences after `change`.
    fn after(change: impl FnOnce(&Path)) -> Option<String> {
        let temp = tempfile::tempdir().unwrap();
        let tree = temp.path().join("tree");
        make(&tree);
        let dir = File::open(&tree).unwrap();
        write(&dir, File::create(temp.path().join("manifest")).unwrap()).unwrap();
        change(&tree);
        let manifest = File::open(temp.path().join("manifest")).unwrap();
        let found = compare(&dir, &manifest, None).unwrap();
        let read = compare(&dir, &manifest, Some(Sums::new(None))).unwrap();
        assert!(found.is_none() || found == read, "{found:?}, but {read:?}");
        read
    }

    #[test]
    fn an_unchanged_tree_has_no_differences() {
        assert_eq!(after(|_| {}), None);
        // Another order of the entries does not count.
        let moved = |tree: &Path| {
            let before = fs::metadata(tree.join("etc")).unwrap().modified().unwrap();
            fs::rename(tree.join("etc/passwd"), tree.join("etc/moved")).unwrap();
            fs::rename(tree.join("etc/moved"), tree.join("etc/passwd")).unwrap();
            File::open(tree.join("etc"))
                .unwrap()
                .set_modified(before)
                .unwrap();
        };
        assert_eq!(after(moved), None);
    }

    #[test]
    fn every_change_is_named() {
        let passwd = |tree: &Path| tree.join("etc/passwd");
        let emptied = after(|tree| fs::write(passwd(tree), "").unwrap()).unwrap();
        assert_eq!(emptied, "/etc/passwd was changed");
        let flipped = after(|tree| fs::write(passwd(tree), "toor").unwrap()).unwrap();
        assert_eq!(flipped, "/etc/passwd was changed");
        let opened = |tree: &Path| {
            fs::set_permissions(passwd(tree), fs::Permissions::from_mode(0o606)).unwrap();
        };
        assert_eq!(after(opened).unwrap(), "/etc/passwd was changed");
        let removed = after(|tree| fs::remove_file(passwd(tree)).unwrap()).unwrap();
        assert!(removed.contains("/etc/passwd is missing"), "{removed}");
        let added = after(|tree| fs::write(tree.join("etc/x"), "").unwrap()).unwrap();
        assert!(added.contains("/etc/x was not committed"), "{added}");
        let retargeted = |tree: &Path| {
            fs::remove_file(tree.join("etc/link")).unwrap();
            symlink("shadow", tree.join("etc/link")).unwrap();
        };
        assert!(after(retargeted).unwrap().contains("/etc/link was changed"));
        let strange = after(|tree| fs::write(tree.join("etc/a b/new\nline\\"), "yy").unwrap());
        assert_eq!(strange.unwrap(), r"/etc/a\x20b/new\x0aline\x5c was changed");
        let many = after(|tree| {
            for name in 0..9 {
                fs::write(tree.join(name.to_string()), "").unwrap();
            }
        });
        assert!(many.as_ref().unwrap().ends_with("and 4 more"), "{many:?}");
    }

    /// Only a comparison of the bytes finds such a change. It reports each name of the file.
    #[test]
    fn other_bytes_with_the_old_time_and_size_are_found() {
        let temp = tempfile::tempdir().unwrap();
        make(temp.path());
        let passwd = temp.path().join("etc/passwd");
        fs::hard_link(&passwd, temp.path().join("etc/other")).unwrap();
        let manifest = tempfile::tempfile().unwrap();
        let dir = File::open(temp.path()).unwrap();
        write(&dir, manifest.try_clone().unwrap()).unwrap();
        let before = fs::metadata(&passwd).unwrap().modified().unwrap();
        fs::write(&passwd, "rood").unwrap();
        File::open(&passwd).unwrap().set_modified(before).unwrap();
        assert_eq!(compare(&dir, &manifest, None).unwrap(), None);
        let found = compare(&dir, &manifest, Some(Sums::new(None))).unwrap();
        let found = found.unwrap();
        for name in ["/etc/passwd", "/etc/other"] {
            assert!(
                found.contains(&format!("{name} has other bytes")),
                "{found}"
            );
        }
    }

    #[test]
    fn a_manifest_without_an_end_says_nothing() {
        let temp = tempfile::tempdir().unwrap();
        make(temp.path());
        let path = temp.path().join("manifest");
        let dir = File::open(temp.path().join("etc")).unwrap();
        write(&dir, File::create(&path).unwrap()).unwrap();
        let whole = fs::read(&path).unwrap();
        fs::write(temp.path().join("etc/passwd"), "").unwrap();
        assert!(
            compare(&dir, &File::open(&path).unwrap(), None)
                .unwrap()
                .is_some()
        );
        for end in 0..whole.len() - 1 {
            fs::write(&path, &whole[..end]).unwrap();
            assert_eq!(
                compare(&dir, &File::open(&path).unwrap(), None).unwrap(),
                None,
                "{end}"
            );
        }
        fs::write(&path, vec![0; whole.len()]).unwrap();
        assert_eq!(
            compare(&dir, &File::open(&path).unwrap(), None).unwrap(),
            None
        );
    }
}
