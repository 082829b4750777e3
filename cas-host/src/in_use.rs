//! Finds out from mount tables where something is mounted, and which directories are used by
//! mounts.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use cas_core::snapshot::Mount;
use rustix::fs::{major, minor};

use crate::calls::undisturbed;
use crate::snapshot_dirs::{TREE, was_replaced};

/// A layer is recognized by this number of names at the end of its path, as in
/// `overlay/snapshots/7/fs`.
const LAST: usize = 4;

/// A directory in use is recognized by the end of its path. This is the maximum length in bytes of
/// that end. The [source of an overlay](overlay_source) does not have space for a longer one.
const COMPARED: usize = 190;
/// Maximum numbers of bytes of the two parts of the [source of an overlay](overlay_source): the
/// name, and the end of a path. The path is that of an entry in a directory, such as `fs` in
/// `snapshots/7`. A search is for the directory, so the source has space for [`COMPARED`] bytes of
/// the path of the directory, and for the name of the entry.
const SOURCE_NAME: usize = 32;
const SOURCE_PATH: usize = 220;

/// Indexes of fields in a line of a mount table. `ROOT` is the path inside the file system that the
/// mount shows, and `PLACE` is the path at which the file system is mounted.
const ID: usize = 0;
const PARENT: usize = 1;
const DEVICE: usize = 2;
const ROOT: usize = 3;
const PLACE: usize = 4;

/// The mount table of this process, or the mount tables of all mount namespaces that this process
/// can read. Without `/proc`, there are no tables, and nothing seems to be mounted.
pub struct MountedDirs(Vec<String>);

impl MountedDirs {
    /// Returns what a mount table shows.
    #[cfg(feature = "fuzzing")]
    pub(crate) fn of(table: String) -> Self {
        MountedDirs(vec![table])
    }

    /// Reads the mount tables of all mount namespaces in which a process runs. Skips a table that
    /// this process cannot read.
    #[must_use]
    pub fn read() -> Self {
        let mut namespaces: BTreeMap<PathBuf, BTreeMap<PathBuf, String>> = BTreeMap::new();
        for process in fs::read_dir("/proc").into_iter().flatten().flatten() {
            let process = process.path();
            let of = |name| fs::read_link(process.join(name));
            let (Ok(namespace), Ok(root)) = (of("ns/mnt"), of("root")) else {
                continue;
            };
            let tables = namespaces.entry(namespace).or_default();
            if tables.contains_key(&root) {
                continue;
            }
            // The table of a process that has just ended cannot be read. Then the next process
            // with this root is tried: its table is the same.
            if let Ok(table) = fs::read_to_string(process.join("mountinfo")) {
                tables.insert(root, table);
            }
        }
        MountedDirs(namespaces.into_values().flat_map(whole).collect())
    }

    /// Returns whether another mount seems to show the file system that is mounted at `directory`:
    /// a bind mount of it, or an overlay on it. Returns false if nothing is mounted there, and true
    /// for a path that is not UTF-8.
    pub(crate) fn is_shared_by_others(&self, directory: &Path) -> bool {
        let Some(text) = directory.to_str() else {
            return true;
        };
        let own = self.at(directory).next();
        let Some(device) = own.and_then(|line| field(line, DEVICE)) else {
            return false;
        };
        let path = without_backslashes(text);
        let name = directory.file_name().unwrap_or_default().to_string_lossy();
        let source = format!(" - overlay {name} ");
        let mut others = self.lines().filter(|line| !is_at(line, directory));
        others.any(|line| {
            let plain = plain(line);
            field(line, DEVICE).as_ref() == Some(&device)
                || plain.contains(&path)
                || plain.contains(&source)
        })
    }

    /// Returns whether something is mounted at `directory`.
    pub fn has(&self, directory: &Path) -> bool {
        self.at(directory).next().is_some()
    }

    /// Returns the places below `directory` where something is mounted.
    pub fn places_below(&self, directory: &Path) -> impl Iterator<Item = PathBuf> {
        let places = self.lines().filter_map(|line| path_field(line, PLACE));
        places.filter(move |place| place.starts_with(directory) && place != directory)
    }

    /// Reads the mount table of the namespace of this process.
    #[must_use]
    pub fn read_own() -> Self {
        let table = fs::read_to_string("/proc/self/mountinfo");
        MountedDirs(table.into_iter().collect())
    }

    /// Returns whether the last of `mounts` seems to be mounted at `directory`, either visible or
    /// hidden by another mount there. The paths in the mount table and in `mounts` need to agree
    /// only at their ends, because the root of `cas` may have been moved since the mount was made.
    pub fn shows(&self, directory: &Path, mounts: &[Mount]) -> bool {
        let mut lines = self.at(directory);
        lines.any(|line| self.shows_last(line, mounts))
    }

    /// Returns whether a line seems to show the last of these mounts, which hides the others.
    fn shows_last(&self, line: &str, mounts: &[Mount]) -> bool {
        mounts.last().is_some_and(|mount| match mount {
            Mount::Bind { source, .. } => {
                let mut inside = self.inside(source);
                inside.any(|inside| inside == Inside::of(line)) || seems(line, mount)
            }
            _ => seems(line, mount),
        })
    }

    /// Returns what each table shows at `directory`. Ignores mounts at `directory` itself, because
    /// such a mount may be a copy: where mounts propagate, the kernel copies a mount that covers a
    /// bind mount of `directory` to `directory` itself.
    fn inside(&self, directory: &Path) -> impl Iterator<Item = Inside> {
        self.0.iter().filter_map(move |table| {
            let above = table.lines().filter_map(|line| {
                let rest = directory.strip_prefix(path_field(line, PLACE)?).ok()?;
                let is_below = rest.iter().next().is_some();
                is_below.then(|| (line, rest.to_owned()))
            });
            // Of several mounts at one place, the last is on top.
            let nearest = above.max_by_key(|(_, rest)| Reverse(rest.iter().count()));
            nearest.map(|(line, rest)| {
                let Inside { device, path } = Inside::of(line);
                let path = path.join(rest);
                Inside { device, path }
            })
        })
    }

    /// Returns whether the topmost mount at `directory` is certainly not the last of `mounts`.
    /// Returns false if nothing is mounted there.
    pub fn is_foreign(&self, directory: &Path, mounts: &[Mount]) -> bool {
        let lines: Vec<&str> = self.at(directory).collect();
        // A mount on top of another mount has that mount as its parent.
        let is_topmost = |line: &&str| {
            let own = field(line, ID);
            lines.iter().all(|other| field(other, PARENT) != own)
        };
        let is_ours = |line: &str| self.shows_last(line, mounts);
        let mut topmost = lines.iter().copied().filter(is_topmost).peekable();
        topmost.peek().is_some() && !topmost.any(is_ours)
    }

    fn lines(&self) -> impl Iterator<Item = &str> {
        self.0.iter().flat_map(|table| table.lines())
    }

    fn at(&self, directory: &Path) -> impl Iterator<Item = &str> {
        self.lines().filter(|line| is_at(line, directory))
    }

    /// Returns whether a mount seems to use `directory` or something in it. An overlay that names
    /// its layers by file descriptors instead of their paths is found by its
    /// [source](overlay_source). Returns true for a path that is not UTF-8.
    pub(crate) fn may_use(&self, directory: &Path) -> bool {
        let Some(directory) = directory.to_str() else {
            return true;
        };
        let inside = without_backslashes(&format!("{directory}/"));
        let mut from = inside.len().saturating_sub(COMPARED);
        while !inside.is_char_boundary(from) {
            from += 1;
        }
        let here: Vec<Inside> = self.inside(Path::new(directory)).collect();
        let device = self.device_of(Path::new(directory));
        let is_here = |line: &str| device.is_none() || field(line, DEVICE) == device;
        let mut lines = self.lines();
        lines.any(|line| {
            plain(line).contains(&inside[from..])
                || is_here(line) && is_bound(line, directory)
                || here.iter().any(|here| Inside::of(line).is_in(here))
        })
    }

    /// Returns the device of the file system that contains `directory`, as mount tables show it.
    /// Returns `None` if the device is not in a table: on btrfs, the files of a subvolume have a
    /// device of their own.
    fn device_of(&self, directory: &Path) -> Option<Vec<u8>> {
        // Something may be mounted on the directory itself.
        let parent = directory.parent()?;
        let found = undisturbed(|| parent.metadata()).ok()?;
        let device = format!("{}:{}", major(found.dev()), minor(found.dev()));
        let device = Some(device.into_bytes());
        let is_known = self.lines().any(|line| field(line, DEVICE) == device);
        device.filter(|_| is_known)
    }
}

/// Returns those mount tables of a namespace that have to be searched to find all its mounts. Each
/// table was read from a process, and its key is the root directory of that process. The table
/// shows only the mounts below this directory, with paths from there. So the table of `/` is enough
/// if there is one.
fn whole(mut tables: BTreeMap<PathBuf, String>) -> Vec<String> {
    match tables.remove(Path::new("/")) {
        Some(table) => vec![table],
        None => tables.into_values().collect(),
    }
}

/// A directory, described by its file system and its path inside that file system. Below a
/// subvolume of btrfs or a bind mount, this path may be quite different from the path at which
/// processes find the directory.
#[derive(PartialEq)]
struct Inside {
    device: Vec<u8>,
    path: PathBuf,
}

impl Inside {
    /// Returns the directory that the mount of a line shows.
    fn of(line: &str) -> Self {
        Inside {
            device: field(line, DEVICE).unwrap_or_default(),
            path: path_field(line, ROOT).unwrap_or_default(),
        }
    }

    /// Returns whether this is `directory` or something in it.
    fn is_in(&self, directory: &Inside) -> bool {
        self.device == directory.device && self.path.starts_with(&directory.path)
    }
}

/// Returns the source of an overlay that names its layers by file descriptors. The source is the
/// name of the topmost of the `lower` directories, a space, and the end of a path: that of `upper`,
/// or without an `upper`, that of the topmost lower directory. A mount table shows the source, so
/// that these directories can be recognized in it. Only the end of a long name is used, and
/// backslashes in the path are left out.
pub(crate) fn overlay_source(lower: &[PathBuf], upper: Option<&Path>) -> OsString {
    let top = lower.first().map_or(Path::new("/"), PathBuf::as_path);
    let name = top.file_name().unwrap_or_default().as_bytes();
    let mut path = upper.unwrap_or(top).as_os_str().as_bytes().to_vec();
    path.retain(|&byte| byte != b'\\');
    let name = &name[name.len().saturating_sub(SOURCE_NAME)..];
    let path = &path[path.len().saturating_sub(SOURCE_PATH)..];
    OsString::from_vec([name, b" ", path].concat())
}

/// Returns a field of a line.
fn field(line: &str, number: usize) -> Option<Vec<u8>> {
    line.split(' ').nth(number).map(unescape)
}

/// Returns a field of a line as a path.
fn path_field(line: &str, number: usize) -> Option<PathBuf> {
    field(line, number).map(|path| OsString::from_vec(path).into())
}

/// Returns whether a line is of a mount at `directory`.
fn is_at(line: &str, directory: &Path) -> bool {
    field(line, PLACE).is_some_and(|place| place == directory.as_os_str().as_bytes())
}

/// Returns a line without escapes.
fn plain(line: &str) -> String {
    without_backslashes(&String::from_utf8_lossy(&unescape(line)))
}

/// Returns whether a line seems to show this mount. The root of `cas` may have another path by now,
/// so only the ends of paths are compared. A line that names an image, or the layers of an overlay,
/// by file descriptors counts as a match, because it may be the line of any such mount.
fn seems(line: &str, mount: &Mount) -> bool {
    match mount {
        Mount::Bind { source, read_only } => {
            let root = field(line, ROOT).unwrap_or_default();
            let inside = Path::new(OsStr::from_bytes(&root));
            let text = inside.to_string_lossy();
            // The root `/` of a whole file system has too few names, so such a line is not a match.
            shares_names(&text)
                && (source.ends_with(inside.strip_prefix("/").unwrap_or(inside))
                    || *read_only && has_replaced(&text, source))
        }
        Mount::Overlay { lower, upper, .. } => {
            let plain = plain(line);
            let shown = upper.as_ref().or(lower.first());
            let end = shown.map(|directory| end(directory)).unwrap_or_default();
            let was_repaired = || {
                let top = lower.first().filter(|_| upper.is_none());
                top.is_some_and(|top| has_replaced(&plain, top))
            };
            line.contains(" - overlay ")
                && (plain.contains(&end) || plain.contains("/fd/") || was_repaired())
        }
        Mount::Erofs { image, .. } => line.split_once(" - erofs ").is_some_and(|(_, rest)| {
            let source = field(rest, 0).unwrap_or_default();
            let source = Path::new(OsStr::from_bytes(&source));
            source.starts_with("/proc") || are_neighbors(source, image)
        }),
        _ => true,
    }
}

/// Returns whether a text contains the path of the tree of a snapshot whose directory a repair has
/// replaced. `tree` is the path of the tree of any snapshot of the same snapshotter. A view that
/// was mounted before the repair still shows the files of the replaced directory.
fn has_replaced(text: &str, tree: &Path) -> bool {
    let mut parts = text.split("/snapshots/").skip(1);
    parts.any(|part| {
        let named = part.split_once('/');
        named.is_some_and(|(id, rest)| rest.starts_with(TREE) && was_replaced(tree, id))
    })
}

/// Returns whether the ends of two paths, such as `erofs/snapshots/7/image.erofs`, differ at most
/// in the number of the snapshot and in the name of the file before its extension. A repair gives a
/// layer another number, and an image has another name if other layers are read on demand. The old
/// image may still be mounted then.
fn are_neighbors(one: &Path, other: &Path) -> bool {
    let above = |path: &Path| {
        let last = path.iter().rev().take(LAST).skip(2);
        last.map(OsStr::to_owned).collect::<Vec<_>>()
    };
    one.extension() == other.extension() && above(one) == above(other)
}

/// Returns the last names of the path of a layer, as [`without_backslashes`] gives them.
fn end(directory: &Path) -> String {
    let names: Vec<_> = directory.iter().collect();
    let last = names[names.len().saturating_sub(LAST)..]
        .iter()
        .collect::<PathBuf>();
    without_backslashes(&last.to_string_lossy())
}

/// Returns whether a line seems to show a bind mount of `directory` or something in it. The line
/// has the path inside the file system, without the path where the file system is mounted.
fn is_bound(line: &str, directory: &str) -> bool {
    let Some(root) = field(line, ROOT) else {
        return false;
    };
    let mut above = Path::new(OsStr::from_bytes(&root))
        .ancestors()
        .filter_map(Path::to_str);
    above.any(|path| path.len() > 1 && directory.ends_with(path) && shares_names(path))
}

/// Returns a text without its backslashes. With overlayfs, a backslash is an escape before a colon,
/// a comma and a backslash.
fn without_backslashes(text: &str) -> String {
    text.replace('\\', "")
}

/// Returns whether a path has at least two names. A shorter one may match by chance.
fn shares_names(path: &str) -> bool {
    path.matches('/').count() > 1
}

/// Returns a path without the escapes of the kernel, which writes a space, tab, line feed,
/// backslash or `#` as `\` and three octal digits.
fn unescape(text: &str) -> Vec<u8> {
    let mut parts = text.split('\\');
    let mut path = parts.next().unwrap_or_default().as_bytes().to_vec();
    for part in parts {
        let digits = part
            .get(..3)
            .and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match digits {
            Some(byte) => {
                path.push(byte);
                path.extend_from_slice(&part.as_bytes()[3..]);
            }
            None => path.extend_from_slice(part.as_bytes()),
        }
    }
    path
}

#[cfg(test)]
mod tests;
