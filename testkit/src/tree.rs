//! Lists everything in a tree of files, for comparisons.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::fs::{self, File};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

/// A file or directory of a tree: type and mode, user and group, time of the last modification in
/// seconds and nanoseconds, number of hard links (0 for a directory), content, and extended
/// attributes. The content of a symbolic link is its target. The content of a device is its number.
pub type Described = (
    u32,
    (u32, u32),
    (i64, i64),
    u64,
    Vec<u8>,
    Vec<(Vec<u8>, Vec<u8>)>,
);

/// Returns the root of a tree and all files and directories below it, by their paths from the root.
/// The path `root` must be absolute. The time of the root is given as 0, because an archive may
/// have no member for its root.
pub fn scan(root: &Path) -> BTreeMap<PathBuf, Described> {
    let mut found = BTreeMap::new();
    let mut waiting = vec![root.to_owned()];
    while let Some(path) = waiting.pop() {
        let data = fs::symlink_metadata(&path).unwrap();
        let kind = data.file_type();
        if kind.is_dir() {
            let names = fs::read_dir(&path).unwrap();
            waiting.extend(names.map(|entry| entry.unwrap().path()));
        }
        let content = if kind.is_file() {
            fs::read(&path).unwrap()
        } else if kind.is_symlink() {
            fs::read_link(&path)
                .unwrap()
                .as_os_str()
                .as_bytes()
                .to_vec()
        } else if kind.is_block_device() || kind.is_char_device() {
            data.rdev().to_le_bytes().to_vec()
        } else {
            Vec::new()
        };
        let time = match path == root {
            true => (0, 0),
            false => (data.mtime(), data.mtime_nsec()),
        };
        let owner = (data.uid(), data.gid());
        // Only some file systems count subdirectories in the number of links of a directory.
        let names = if kind.is_dir() { 0 } else { data.nlink() };
        let described = (data.mode(), owner, time, names, content, xattrs(&path));
        found.insert(path.strip_prefix(root).unwrap().to_owned(), described);
    }
    found
}

fn xattrs(path: &Path) -> Vec<(Vec<u8>, Vec<u8>)> {
    // `attributes` takes a directory and a name in it. The path is absolute, so `/` can be the
    // directory, and the path the name.
    let name = CString::new(path.as_os_str().as_bytes()).unwrap();
    let root = File::open("/").unwrap();
    cas_host::attributes(root.as_fd(), &name).unwrap()
}
