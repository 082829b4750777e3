//! Writes valid and invalid archives, and applies them.
#![allow(
    dead_code,
    unreachable_pub,
    reason = "each test binary uses some of it"
)]

use std::fs;
use std::io::BufReader;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use cas_core::Result;
use cas_layer::apply::{Applied, Tree};
use cas_layer::tar::{Entry, Reader};

/// Returns the bytes of a pax record.
pub fn record(key: &str, value: impl AsRef<[u8]>) -> Vec<u8> {
    let rest = [b" ", key.as_bytes(), b"=", value.as_ref(), b"\n"].concat();
    let mut length = rest.len();
    while length != rest.len() + length.to_string().len() {
        length = rest.len() + length.to_string().len();
    }
    [length.to_string().as_bytes(), &rest].concat()
}

/// A header whose fields can be changed.
#[derive(Clone)]
pub struct Header(pub [u8; 512]);

impl Header {
    pub fn new(flag: u8, name: impl AsRef<[u8]>) -> Self {
        let mut header = Header([0; 512]);
        header.put(0, name.as_ref());
        header.0[156] = flag;
        header.put(257, b"ustar\x0000");
        let mode = if flag == b'5' { 0o755 } else { 0o644 };
        header
            .octal(100..108, mode)
            .octal(108..116, 0)
            .octal(116..124, 0);
        header.octal(124..136, 0).octal(136..148, 1_000_000_000);
        header
    }

    pub fn put(&mut self, at: usize, bytes: &[u8]) -> &mut Self {
        self.0[at..at + bytes.len()].copy_from_slice(bytes);
        self
    }

    pub fn octal(&mut self, at: std::ops::Range<usize>, value: u64) -> &mut Self {
        let text = format!("{value:0width$o}", width = at.len() - 1);
        self.put(at.start, text.as_bytes())
    }

    pub fn mode(mut self, mode: u64) -> Self {
        self.octal(100..108, mode);
        self
    }

    pub fn owner(mut self, uid: u64, gid: u64) -> Self {
        self.octal(108..116, uid).octal(116..124, gid);
        self
    }

    pub fn size(mut self, size: u64) -> Self {
        self.octal(124..136, size);
        self
    }

    pub fn link(mut self, target: impl AsRef<[u8]>) -> Self {
        self.put(157, target.as_ref());
        self
    }

    pub fn device(mut self, major: u64, minor: u64) -> Self {
        self.octal(329..337, major).octal(337..345, minor);
        self
    }

    pub fn gnu(mut self) -> Self {
        self.put(257, b"ustar  \0");
        self
    }

    /// Adds the checksum, over unsigned or signed bytes.
    pub fn sealed(mut self, signed: bool) -> [u8; 512] {
        self.put(148, b"        ");
        let bytes = self.0.iter();
        let sum: i64 = if signed {
            bytes.map(|&byte| i64::from(byte.cast_signed())).sum()
        } else {
            bytes.map(|&byte| i64::from(byte)).sum()
        };
        self.put(148, format!("{sum:06o}\0 ").as_bytes());
        self.0
    }
}

/// An archive that is built member by member.
#[derive(Clone, Default)]
pub struct Tar(pub Vec<u8>);

impl Tar {
    pub fn new() -> Self {
        Tar::default()
    }

    pub fn raw(mut self, bytes: impl AsRef<[u8]>) -> Self {
        self.0.extend_from_slice(bytes.as_ref());
        self
    }

    /// Adds a header, unchanged, with a body padded to blocks.
    pub fn member(self, header: Header, body: impl AsRef<[u8]>) -> Self {
        let body = body.as_ref();
        let padding = vec![0; body.len().wrapping_neg() % 512];
        self.raw(header.sealed(false)).raw(body).raw(padding)
    }

    pub fn file(self, name: impl AsRef<[u8]>, body: impl AsRef<[u8]>) -> Self {
        let size = body.as_ref().len() as u64;
        self.member(Header::new(b'0', name).size(size), body)
    }

    pub fn dir(self, name: impl AsRef<[u8]>) -> Self {
        self.member(Header::new(b'5', name), b"")
    }

    pub fn symlink(self, name: impl AsRef<[u8]>, target: impl AsRef<[u8]>) -> Self {
        self.member(Header::new(b'2', name).link(target), b"")
    }

    pub fn hardlink(self, name: impl AsRef<[u8]>, target: impl AsRef<[u8]>) -> Self {
        self.member(Header::new(b'1', name).link(target), b"")
    }

    /// Adds a pax header for the next member.
    pub fn pax(self, records: &[(&str, &[u8])]) -> Self {
        let body: Vec<u8> = records
            .iter()
            .flat_map(|(key, value)| record(key, value))
            .collect();
        self.extension(b'x', body)
    }

    pub fn extension(self, flag: u8, body: impl AsRef<[u8]>) -> Self {
        let size = body.as_ref().len() as u64;
        self.member(Header::new(flag, "extension").size(size), body)
    }

    /// Returns the archive with its end blocks.
    pub fn end(self) -> Vec<u8> {
        self.raw([0; 1024]).0
    }

    /// Applies the archive to a directory.
    pub fn apply(self, root: &Path) -> Result<Applied> {
        self.apply_to(&Tree::open(root)?)
    }

    /// Applies the archive to an open tree.
    pub fn apply_to(self, tree: &Tree) -> Result<Applied> {
        tree.apply(&mut Reader::new(&self.end()[..]))
    }
}

/// Members with their stored bytes.
pub type Members = Vec<(Entry, Vec<u8>)>;

/// Reads all members with their stored bytes, in pieces of an odd size.
pub fn read_all(archive: &[u8]) -> Result<(Members, Vec<String>)> {
    use std::io::Read;
    let mut reader = Reader::new(BufReader::with_capacity(333, archive));
    let mut members = Members::new();
    while let Some(entry) = reader.next_entry()? {
        let mut body = Vec::new();
        reader.read_to_end(&mut body)?;
        members.push((entry, body));
    }
    Ok((members, reader.warnings().to_vec()))
}

/// A tree to apply to, and a canary next to it that must stay untouched.
pub struct Cage {
    pub dir: tempfile::TempDir,
    before: Vec<String>,
}

impl Cage {
    pub fn new() -> Self {
        let dir = tempfile::tempdir_in("/dev/shm").unwrap();
        fs::create_dir(dir.path().join("root")).unwrap();
        let canary = dir.path().join("canary");
        fs::create_dir(&canary).unwrap();
        fs::write(canary.join("file"), "alive").unwrap();
        fs::set_permissions(canary.join("file"), fs::Permissions::from_mode(0o640)).unwrap();
        std::os::unix::fs::symlink("file", canary.join("link")).unwrap();
        let mut cage = Cage {
            dir,
            before: Vec::new(),
        };
        cage.before = cage.canary_state();
        cage
    }

    pub fn root(&self) -> PathBuf {
        self.dir.path().join("root")
    }

    /// Returns the canary's directory, as a path that a link inside the tree could hold.
    pub fn canary(&self) -> String {
        self.dir.path().join("canary").to_str().unwrap().to_owned()
    }

    fn canary_state(&self) -> Vec<String> {
        let describe = |path: PathBuf| {
            let meta = fs::symlink_metadata(&path).unwrap();
            let times = (
                meta.mtime(),
                meta.mtime_nsec(),
                meta.ctime(),
                meta.ctime_nsec(),
            );
            let id = (
                meta.ino(),
                meta.nlink(),
                meta.mode(),
                meta.uid(),
                meta.gid(),
                meta.size(),
            );
            // Directories are read right here, which changes their access times.
            let read = if meta.is_dir() { 0 } else { meta.atime() };
            format!("{} {id:?} {times:?} {read}", path.display())
        };
        let canary = PathBuf::from(self.canary());
        let mut state = vec![describe(canary.clone())];
        // Everything next to the tree, so that a new name is noticed too.
        for dir in [self.dir.path(), &canary] {
            for entry in fs::read_dir(dir).unwrap() {
                let path = entry.unwrap().path();
                if path == self.root() {
                    state.push("root".to_owned());
                } else {
                    state.push(describe(path));
                }
            }
        }
        state.sort();
        state
    }

    /// Fails unless everything outside the tree is unchanged.
    #[track_caller]
    pub fn assert_untouched(&self) {
        assert_eq!(self.canary_state(), self.before);
    }
}
