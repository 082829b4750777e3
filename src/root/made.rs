//! Which directories of stores a root has made: the list `local/made.json`.
//!
//! If a listed directory is missing or empty, for example because a disk is not mounted, or if
//! something else is in its place, the root does not open. A new store in that place would have no
//! images, and the next garbage collection would remove all snapshots. A directory is listed after
//! it was made. If the process is killed before it lists the directory, the next opening of the
//! root lists the directory. `cas init` removes from the list each directory that is missing or
//! empty. The directory of a snapshotter is not listed, because lost snapshots are unpacked again.

use std::path::{Path, PathBuf};
use std::{fs, io};

use cas_core::layout::OCI_LAYOUT;
use cas_core::{Context, Error, Location, Registry, Result, limit};
use cas_host::calls::undisturbed;
use cas_host::{Dir, Lock, make_private_dir};
use rustix::io::Errno;

use super::{LOCK, Root};

/// The directory of the list.
pub(super) const DIRECTORY: &str = "local";
pub(super) const NAME: &str = "made.json";
/// The new list, until it replaces the old one.
pub(super) const STAGING: &str = ".made.json";
/// Names in the directory of a store, by the scheme of its engine. The engine is recognized by
/// these names, because an engine that opens a directory may write to it.
pub(super) const NAMES: [(&str, &[&str]); 4] = [
    ("fs", &[".cas", OCI_LAYOUT]),
    ("redb", &["cas.redb", "cas.redb.head"]),
    ("rocksdb", &["db", "db.head"]),
    ("dir", &["format", "records"]),
];

impl Root {
    /// Checks that no listed directory of the store at `location` is missing or empty, and that
    /// nothing else is in its place. Returns the directories of the store that are not listed yet.
    ///
    /// # Errors
    /// `Corrupt` if a listed directory is missing or empty, if it is not a directory, or if it has
    /// only files of other programs; as [`Registry::check`] and [`Registry::parts`].
    pub(crate) fn check_made(
        &self,
        location: &Location,
        registry: &Registry,
    ) -> Result<Vec<PathBuf>> {
        registry.check(location)?;
        let listed = read(&self.path);
        let mut new = Vec::new();
        let mut parts = registry.parts(location)?;
        // The place of a store in a bucket is not a path.
        parts.retain(|part| Path::new(part.place()).is_absolute());
        for part in parts {
            let place = PathBuf::from(part.place());
            let name = self.listed_name(&place);
            if !name.is_some_and(|name| listed.contains(&name)) {
                new.push(place);
            } else if let Some(loss) = Loss::of(&place, part.scheme()) {
                return Err(self.lost(&place, loss));
            }
        }
        Ok(new)
    }

    /// Adds to the list each directory of `new` that has files now, unless the root is read-only.
    /// If that fails, for example because the disk is full, the next opening adds them.
    pub(crate) fn note_made(&self, new: &[PathBuf]) {
        let made = new.iter().filter(|place| !has_no_files(place));
        let names: Vec<String> = made.filter_map(|place| self.listed_name(place)).collect();
        if names.is_empty() || !self.writable {
            return;
        }
        let _ = change(&self.path, |listed| listed.extend(names));
    }

    /// Returns the form of a path in the list. A path in the root is relative to the root, because
    /// the root may be moved. Returns `None` for a path that is not UTF-8.
    fn listed_name(&self, place: &Path) -> Option<String> {
        let inside = place.strip_prefix(&self.path).unwrap_or(place);
        inside.to_str().map(str::to_owned)
    }

    fn lost(&self, place: &Path, loss: Loss) -> Error {
        let list = self.path.join(DIRECTORY).join(NAME);
        let (found, before) = match loss {
            Loss::Empty => ("is missing or empty", ""),
            Loss::NotDirectory => ("is not a directory", "move it away, and "),
            Loss::Foreign => ("has no files of a store", "move it away, and "),
        };
        Error::corrupt(format!(
            "{} {found}, but this root has stored files there; mount or restore the directory; to \
             begin with an empty directory, {before}run `cas init` with the store and the \
             snapshotter of this root, or delete {}",
            place.display(),
            list.display()
        ))
        .operation("open root")
        .subject(self.path.display())
    }
}

/// What is in the place of a directory that had the files of a store.
enum Loss {
    /// Nothing, an empty directory, or a symbolic link that leads nowhere.
    Empty,
    /// Something that is not a directory, such as a file.
    NotDirectory,
    /// A directory that has only files of other programs.
    Foreign,
}

impl Loss {
    /// Returns what is in the place of the directory `place` of a store of the engine `scheme`.
    /// Returns `None` if the directory has files of a store. Also returns `None` if it cannot be
    /// read, or if the names in such a store are not known, because opening the store reports what
    /// is wrong.
    fn of(place: &Path, scheme: &str) -> Option<Self> {
        let mut entries = match undisturbed(|| fs::read_dir(place)) {
            Ok(entries) => entries,
            Err(error) => {
                return match error.raw_os_error().map(Errno::from_raw_os_error) {
                    Some(Errno::NOENT) => Some(Loss::Empty),
                    Some(Errno::NOTDIR | Errno::LOOP) => Some(Loss::NotDirectory),
                    _ => None,
                };
            }
        };
        if entries.next().is_none() {
            return Some(Loss::Empty);
        }
        let is_known = NAMES.iter().any(|(known, _)| *known == scheme);
        // Another engine refuses the store of a known engine itself.
        let names = NAMES.iter().flat_map(|(_, names)| *names);
        (is_known && has_none(place, names)).then_some(Loss::Foreign)
    }
}

/// Returns whether a directory that can be searched has none of these names.
fn has_none<'a>(place: &Path, names: impl IntoIterator<Item = &'a &'static str>) -> bool {
    names.into_iter().all(|name| {
        let found = undisturbed(|| place.join(name).symlink_metadata());
        found.is_err_and(|error| error.kind() == io::ErrorKind::NotFound)
    })
}

/// Checks that there is a store at `location`, which is not that of a composition. The check does
/// not open the store, because opening an absent store would create it. A store in a bucket is not
/// checked.
///
/// # Errors
/// `NotFound` if the directory of the store is missing or empty; `InvalidArgument` if something
/// else is in its place, such as a file or the store of another engine.
pub(crate) fn check_there(location: &Location) -> Result<()> {
    let (scheme, place) = (location.scheme(), Path::new(location.place()));
    let own = NAMES.iter().find(|(known, _)| *known == scheme);
    // The place of a store in a bucket is not a path.
    let is_path = place.is_absolute() || own.is_some() && !location.place().is_empty();
    let error = match Loss::of(place, scheme).filter(|_| is_path) {
        Some(Loss::Empty) => Error::not_found(
            "no store exists at this path: it is missing or an empty directory; check the path",
        ),
        Some(Loss::NotDirectory) => Error::invalid(
            "expected the directory of a store, found something else at this path; check the path",
        ),
        _ if is_path && own.is_some_and(|(_, names)| has_none(place, *names)) => {
            Error::invalid(format!(
                "the directory at this path has no store of the kind {scheme}; check the path and \
                 the scheme"
            ))
        }
        _ => return Ok(()),
    };
    Err(error.operation("open store").subject(location))
}

/// Removes from the list of `root` each directory that is missing or empty. The caller must hold
/// the lock of the root.
pub(super) fn forget_lost(root: &Path) -> Result<()> {
    let listed = read(root);
    let kept = |name: &String| !has_no_files(&root.join(name));
    if listed.iter().all(kept) {
        return Ok(());
    }
    write(root, &listed.into_iter().filter(kept).collect::<Vec<_>>())
}

fn change(root: &Path, add: impl FnOnce(&mut Vec<String>)) -> Result<()> {
    let dir = Dir::open(root).during("open root", root.display())?;
    let _lock = Lock::exclusive(&dir, LOCK).during("open root", root.display())?;
    let mut listed = read(root);
    add(&mut listed);
    listed.sort_unstable();
    listed.dedup();
    write(root, &listed)
}

/// Returns the list. It is empty in a root of an earlier release, and if its file cannot be read or
/// does not parse.
pub(super) fn read(root: &Path) -> Vec<String> {
    let dir = Dir::open(root.join(DIRECTORY));
    let text = dir.and_then(|dir| dir.read(NAME, limit::DOCUMENT_READ));
    let text = text.ok().flatten().unwrap_or_default();
    serde_json::from_slice(&text).unwrap_or_default()
}

/// Writes the list in one step, durably.
fn write(root: &Path, listed: &[String]) -> Result<()> {
    let path = root.join(DIRECTORY);
    let written = || {
        make_private_dir(&path)?;
        let dir = Dir::open(&path)?;
        let text = serde_json::to_vec(listed)?;
        dir.replace(NAME, &text, 0o600, (&dir, STAGING))
    };
    written().during("write", path.join(NAME).display())
}

/// Returns whether a directory is missing or empty. Returns false for a path that cannot be read as
/// a directory, because opening the store or the snapshotter reports that error.
pub(super) fn has_no_files(place: &Path) -> bool {
    match fs::read_dir(place) {
        Err(error) => error.kind() == io::ErrorKind::NotFound,
        Ok(mut entries) => entries.next().is_none(),
    }
}
