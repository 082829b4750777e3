//! Helpers that the tests of this crate share: archives that are applied, and a tree with a canary
//! next to it.
#![allow(
    dead_code,
    unreachable_pub,
    unused_imports,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test may fail anywhere, and each test binary uses a part"
)]

pub mod source;

use std::fs;
use std::io::BufReader;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use cas_core::Result;
use cas_layer::apply::{Applied, Tree};
use cas_layer::tar::{Entry, Reader};
pub use testkit::archive::{Header, Tar, record};

/// Applies archives.
pub trait Apply {
    /// Applies the archive to a directory.
    fn apply(self, root: &Path) -> Result<Applied>;

    /// Applies the archive to an open tree.
    fn apply_to(self, tree: &Tree) -> Result<Applied>;
}

impl Apply for Tar {
    fn apply(self, root: &Path) -> Result<Applied> {
        self.apply_to(&Tree::open(root)?)
    }

    fn apply_to(self, tree: &Tree) -> Result<Applied> {
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
    Ok((members, reader.warnings()))
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
        // Lists everything next to the tree, so that a new name is noticed, too.
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
