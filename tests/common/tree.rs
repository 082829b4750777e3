//! A tree as data: everything that an unpacker determines.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fs::{self, Metadata};
use std::io::Read;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use cas::{Algorithm, Hasher};

/// One entry. Hard links refer to the first name of the file.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    mode: u32,
    owner: (u32, u32),
    content: String,
    xattrs: BTreeMap<OsString, Vec<u8>>,
    mtime: i64,
    linked_to: Option<PathBuf>,
}

/// The entries of a tree by their paths.
pub(crate) type Tree = BTreeMap<PathBuf, Entry>;

/// Returns all entries below `root`, and `root` itself as the empty path.
pub(crate) fn scan(root: &Path) -> Tree {
    let mut paths = vec![PathBuf::new()];
    let mut next = 0;
    while next < paths.len() {
        let path = root.join(&paths[next]);
        if fs::symlink_metadata(&path).unwrap().is_dir() {
            let names = fs::read_dir(&path)
                .unwrap()
                .map(|entry| entry.unwrap().file_name());
            let below: Vec<_> = names.map(|name| paths[next].join(name)).collect();
            paths.extend(below);
        }
        next += 1;
    }
    paths.sort();
    let mut first_names = BTreeMap::new();
    let entry = |path: PathBuf| {
        let data = fs::symlink_metadata(root.join(&path)).unwrap();
        let linked = data.nlink() > 1 && !data.is_dir();
        let linked_to = linked.then(|| {
            first_names
                .entry(data.ino())
                .or_insert_with(|| path.clone())
                .clone()
        });
        let entry = Entry {
            mode: data.mode(),
            owner: (data.uid(), data.gid()),
            content: content(&root.join(&path), &data),
            xattrs: xattrs(&root.join(&path)),
            mtime: data.mtime(),
            linked_to,
        };
        (path, entry)
    };
    let mut entries: Tree = paths.into_iter().map(entry).collect();
    forget_hidden_names(&mut entries);
    entries
}

/// Treats a file as not linked if it has only one visible name. An overlay also counts names that
/// an upper layer hides.
fn forget_hidden_names(entries: &mut Tree) {
    let others = |(path, entry): (&PathBuf, &Entry)| {
        let first = entry.linked_to.as_ref();
        first.filter(|first| *first != path).cloned()
    };
    let linked: BTreeSet<PathBuf> = entries.iter().filter_map(others).collect();
    for (path, entry) in entries {
        if entry.linked_to.as_ref() == Some(path) && !linked.contains(path) {
            entry.linked_to = None;
        }
    }
}

/// Returns the differences of two trees on the disk, one line for each.
pub(crate) fn differences(a: &Path, b: &Path) -> Vec<String> {
    compare(&scan(a), &scan(b))
}

/// Returns the differences of two trees, one line for each.
pub(crate) fn compare(a: &Tree, b: &Tree) -> Vec<String> {
    let mut found = Vec::new();
    for (path, entry) in a {
        match b.get(path) {
            Some(other) if other == entry => {}
            other => found.push(format!("{}: {entry:?} / {other:?}", path.display())),
        }
    }
    found.extend(
        b.keys()
            .filter(|path| !a.contains_key(*path))
            .map(|path| format!("{}: only in the second", path.display())),
    );
    found
}

fn content(path: &Path, data: &Metadata) -> String {
    let kind = data.file_type();
    if kind.is_symlink() {
        return format!("-> {}", fs::read_link(path).unwrap().display());
    }
    if kind.is_block_device() || kind.is_char_device() {
        return format!("device {}", data.rdev());
    }
    if !kind.is_file() {
        return String::new();
    }
    let mut file = fs::File::open(path).unwrap();
    let mut hasher = Hasher::new(Algorithm::Sha256);
    let mut piece = vec![0; 1 << 16];
    loop {
        match file.read(&mut piece).unwrap() {
            0 => return format!("{} {}", data.len(), hasher.finish()),
            n => hasher.update(&piece[..n]),
        }
    }
}

/// Returns the extended attributes of a file. Symbolic links are not followed.
pub(crate) fn xattrs(path: &Path) -> BTreeMap<OsString, Vec<u8>> {
    use std::os::unix::ffi::OsStringExt;
    let mut names = vec![0; 64 << 10];
    let length = rustix::fs::llistxattr(path, &mut names[..]).unwrap();
    let names = names[..length]
        .split(|byte| *byte == 0)
        .filter(|name| !name.is_empty());
    names
        .map(|name| {
            let mut value = vec![0; 64 << 10];
            match rustix::fs::lgetxattr(path, name, &mut value[..]) {
                Ok(length) => value.truncate(length),
                // The kernel lists an attribute, but refuses to show its value.
                Err(error) => value = error.to_string().into_bytes(),
            }
            (OsString::from_vec(name.to_vec()), value)
        })
        .collect()
}
