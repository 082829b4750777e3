//! The EROFS image that merges a chain of layers.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use cas_core::snapshot::{Backing, Condition, Depth, LAYER_TAR, Mount, Usage};
use cas_core::{Context, Digest, Error, Result};
use cas_erofs::Layers;
use cas_host::calls::undisturbed;
use cas_host::erofs::ImageFiles;
use cas_host::{Dir, Lock, NewFile, SnapshotDirs, copy_data, erofs, remove_all};
use cas_lazy::StoredTable;

use crate::record::{Record, Seen, Stored};
use crate::{lazy, merged, ready};

/// The names of the files of an image that reads no layer on demand.
const METADATA: &str = "image.erofs";
const SPARSE: &str = "sparse";
/// The name of the record of every image.
const RECORD: &str = "image.json";
/// The end of the names of all metadata.
const METADATA_END: &str = ".erofs";
/// Number of hexadecimal digits in a file name that identify which layers an image reads on demand.
const SET_NAME: usize = 16;
/// The name of the file that is locked while an image is made.
const LOCK: &str = "image.lock";

/// Number of digits of the digest of a record that name the mount of its image.
const MOUNT_NAME: usize = 32;

/// The image of a chain of layers, in the directory of the topmost layer.
pub(crate) struct Image {
    metadata: PathBuf,
    devices: Vec<PathBuf>,
    /// The digest of the record, which identifies the image with all its files.
    identity: Digest,
    /// The number of the session that serves the layers that are read on demand, or `None` if there
    /// are no such layers.
    session: Option<u64>,
    /// The numbers of the layers that the image reads on demand.
    on_demand: Vec<u64>,
}

impl Image {
    /// Returns the image of the layers with these numbers, topmost first. Makes the image if there
    /// is none, if a file of the existing image was changed, or if a layer that the existing image
    /// reads on demand is now complete. If all layers are ready, the metadata is copied from the
    /// first of the directories `ready` that has it.
    ///
    /// # Errors
    /// `NotFound` if the directory of a layer is missing; `Corrupt` if a file of a layer was
    /// changed after the commit; `Corrupt` or `NotFound` if such a file is missing; `Corrupt`,
    /// `OutOfRange` or `Unsupported` if the layers cannot be merged; errors of the file system.
    pub(crate) fn made(dirs: &SnapshotDirs, chain: &[u64], ready: &[PathBuf]) -> Result<Self> {
        for id in chain {
            check_layer(dirs, *id)?;
        }
        match load_current(dirs, chain)? {
            Some(image) => Ok(image),
            None => make_alone(dirs, chain, ready),
        }
    }

    /// Returns the image of the layers with these numbers, topmost first, if it was made.
    ///
    /// # Errors
    /// `NotFound` if the image was not made, or if one of its files is missing or was changed
    /// since; `Corrupt` if one of the tars is missing or was changed since.
    pub(crate) fn existing(dirs: &SnapshotDirs, chain: &[u64]) -> Result<Self> {
        load(dirs, chain)?.ok_or_else(|| {
            Error::not_found(
                "the EROFS image of the layers is missing or was changed; mount the snapshot again",
            )
        })
    }

    /// Checks that a process serves the layers that are read on demand, if there are any. Returns
    /// the image.
    ///
    /// # Errors
    /// `FailedPrecondition` if no process serves them.
    pub(crate) fn served(self, dirs: &SnapshotDirs) -> Result<Self> {
        if self.session.is_some() {
            lazy::check_served(&dirs.beside(lazy::SERVED))?;
        }
        Ok(self)
    }

    /// Returns the files of the image, which the kernel reads through `backing`.
    pub(crate) fn files(&self, backing: Backing) -> ImageFiles<'_> {
        ImageFiles {
            metadata: &self.metadata,
            devices: &self.devices,
            backing,
        }
    }

    /// Returns where the image is mounted for all snapshots on it.
    pub(crate) fn shared(&self, dirs: &SnapshotDirs) -> PathBuf {
        let name = &self.identity.hex()[..MOUNT_NAME];
        match self.session {
            // A mount reads the data files of the session in which it was made, even if a later
            // session has begun. So each session has its own mount.
            Some(session) => mounts(dirs).join(format!("{name}-{session}")),
            None => mounts(dirs).join(name),
        }
    }

    pub(crate) fn into_mount(self, dirs: &SnapshotDirs, backing: Backing) -> Mount {
        Mount::Erofs {
            shared: self.shared(dirs),
            backing,
            image: self.metadata,
            devices: self.devices,
        }
    }

    /// `devices` are the data files of the layers, as [`devices`] returns them.
    fn new(
        dirs: &SnapshotDirs,
        record: &Record,
        text: &[u8],
        directory: &Path,
        mut devices: Vec<PathBuf>,
    ) -> Self {
        let (metadata, sparse) = names(&record.on_demand);
        if let Some((place, _)) = &record.sparse {
            devices.insert(*place, directory.join(sparse));
        }
        Image {
            metadata: directory.join(metadata),
            devices,
            identity: Digest::sha256(text),
            session: (!record.on_demand.is_empty()).then(|| lazy::session(dirs)),
            on_demand: record.on_demand.clone(),
        }
    }
}

/// Returns the names of the metadata and of the file for sparse files. A layer that is read on
/// demand has other offsets in its data file than in its tar. Therefore the names depend on which
/// layers are read on demand, and a new image does not replace an image that a caller uses.
fn names(on_demand: &[u64]) -> (String, String) {
    if on_demand.is_empty() {
        return (METADATA.to_owned(), SPARSE.to_owned());
    }
    let ids: Vec<String> = on_demand.iter().map(u64::to_string).collect();
    let set = Digest::sha256(ids.join(" ").as_bytes());
    let set = &set.hex()[..SET_NAME];
    (
        format!("image-{set}{METADATA_END}"),
        format!("{SPARSE}-{set}"),
    )
}

/// Returns the directory in which images are mounted.
pub(crate) fn mounts(dirs: &SnapshotDirs) -> PathBuf {
    dirs.beside("mounts")
}

/// Returns the paths of the data files of an image's layers, lowest first.
fn devices(dirs: &SnapshotDirs, record: &Record) -> Vec<PathBuf> {
    let device = |id: &u64| match record.on_demand.contains(id) {
        true => lazy::device(dirs, *id),
        false => tar(dirs, *id),
    };
    record.layers.iter().map(device).collect()
}

/// Returns the path of the tar of a layer.
fn tar(dirs: &SnapshotDirs, id: u64) -> PathBuf {
    let complete = lazy::complete_tar(dirs, id);
    complete.unwrap_or_else(|| ready::layer_file(dirs, id, LAYER_TAR))
}

/// Checks that the files of a layer have not been changed since the commit, as far as their
/// attributes show. Does not read their bytes. If the manifest of the layer's tree is missing (see
/// [`SnapshotDirs::check`]), checks only the directory of the layer. In both cases, also checks the
/// complete tar of a layer that was read on demand, and a ready layer to which the layer refers.
///
/// # Errors
/// `NotFound` if the directory of the layer is missing; `Corrupt` if a file is missing or was
/// changed, or if something else is in the place of the directory; errors of the file system.
pub(crate) fn check_layer(dirs: &SnapshotDirs, id: u64) -> Result<()> {
    let found = match dirs.check(id, Depth::Files)? {
        Condition::Sound => match ready::check(dirs, id)? {
            Condition::Sound => lazy::check_tar(dirs, id, Depth::Files)?,
            found => found,
        },
        found => found,
    };
    let what = match found {
        Condition::Sound => return Ok(()),
        Condition::Missing => {
            return Err(Error::not_found(
                "the directory of a layer is missing; run `cas fsck --repair`, or pull or import \
                 the image again",
            )
            .subject(dirs.path(id).display()));
        }
        Condition::Damaged(what) => what,
    };
    Err(changed(dirs, id, &what, "cas fsck --repair"))
}

/// Returns the error for a layer with a file that was changed after the commit. `repair` is the
/// command that finds the change and repairs the layer.
fn changed(dirs: &SnapshotDirs, id: u64, what: &str, repair: &str) -> Error {
    Error::corrupt(format!(
        "a layer was changed after its commit ({what}); run `{repair}`"
    ))
    .subject(dirs.path(id).display())
}

/// Returns the image that was made of these layers, topmost first, or `None` if there is none, or
/// if one of its files was changed.
///
/// # Errors
/// `Corrupt` if a tar does not have the length and the time that it had when the image was made.
/// This is noticed even if the manifest of the layer's tree was lost.
fn load(dirs: &SnapshotDirs, chain: &[u64]) -> Result<Option<Image>> {
    let Some((record, text)) = read(dirs, chain) else {
        return Ok(None);
    };
    let devices = devices(dirs, &record);
    for ((id, seen), tar) in record.layers.iter().zip(&record.tars).zip(&devices) {
        if seen.as_ref().is_some_and(|seen| !seen.is_at(tar)) {
            let what = format!(
                "{LAYER_TAR} has another length or modification time than when the EROFS image \
                 was made"
            );
            // Without the manifest, only the bytes show the change.
            return Err(changed(dirs, *id, &what, "cas fsck --read-data --repair"));
        }
    }
    let directory = chain.first().map(|top| dirs.path(*top));
    Ok(directory.map(|directory| Image::new(dirs, &record, &text, &directory, devices)))
}

/// Returns the same as [`load`], but `None` if a layer that the image reads on demand is now
/// complete.
///
/// # Errors
/// As [`load`].
fn load_current(dirs: &SnapshotDirs, chain: &[u64]) -> Result<Option<Image>> {
    let is_current = |image: &Image| {
        let mut on_demand = image.on_demand.iter();
        on_demand.all(|id| lazy::is_on_demand(dirs, *id))
    };
    Ok(load(dirs, chain)?.filter(is_current))
}

/// Returns the record of the image of these layers and its text, or `None` if there is none that
/// can be used.
fn read(dirs: &SnapshotDirs, chain: &[u64]) -> Option<(Record, Vec<u8>)> {
    let directory = dirs.path(*chain.first()?);
    let text = read_record(&directory)?;
    let record: Record = serde_json::from_slice(&text).ok()?;
    let is_of_chain = record.layers.iter().rev().eq(chain);
    let sparse = record.sparse.as_ref();
    let (metadata_name, sparse_name) = names(&record.on_demand);
    let is_whole = record.tars.len() == chain.len()
        && record.metadata.is_at(&directory.join(&metadata_name))
        && sparse.is_none_or(|(place, stored)| {
            *place <= chain.len() && stored.is_at(&directory.join(&sparse_name))
        });
    (is_of_chain && is_whole).then_some((record, text))
}

/// Returns the text of the record in the directory of a layer, or `None` if it cannot be read. Does
/// not wait at a pipe, and does not follow a symbolic link.
fn read_record(directory: &Path) -> Option<Vec<u8>> {
    let mut text = Vec::new();
    let mut file = erofs::open_file(&directory.join(RECORD)).ok()?;
    file.read_to_end(&mut text).ok()?;
    Some(text)
}

/// Makes the image of layers, unless another process has just done so.
fn make_alone(dirs: &SnapshotDirs, chain: &[u64], ready: &[PathBuf]) -> Result<Image> {
    let path = chain.first().map(|top| dirs.path(*top)).unwrap_or_default();
    alone(&path, || match load_current(dirs, chain)? {
        Some(image) => Ok(image),
        None => match copy_ready(dirs, chain, ready)? {
            Some(image) => Ok(image),
            None => make(dirs, chain),
        },
    })
}

/// Calls `change` while no other caller makes or removes the image in the directory of a layer.
fn alone<T>(directory: &Path, change: impl FnOnce() -> Result<T>) -> Result<T> {
    let dir = Dir::open(directory).during("open directory", directory.display())?;
    let lock = Lock::exclusive(&dir, LOCK).during("lock", directory.display())?;
    let changed = change();
    // If the file cannot be removed, it is removed with the directory later.
    let _ = dir.remove(LOCK);
    drop(lock);
    changed
}

/// Makes the image of layers that are all ready from ready metadata. Its record is written last.
/// Returns `None` if the metadata of these layers is not ready.
fn copy_ready(dirs: &SnapshotDirs, chain: &[u64], ready: &[PathBuf]) -> Result<Option<Image>> {
    let from_lowest = || chain.iter().rev();
    let layers: Option<Vec<_>> = from_lowest().map(|id| ready::tar(dirs, *id)).collect();
    let (Some(layers), Some(top)) = (layers, chain.first()) else {
        return Ok(None);
    };
    let (diff_ids, lengths): (Vec<_>, Vec<_>) = layers.into_iter().unzip();
    let Some(metadata) = merged::read(ready, &diff_ids, &lengths) else {
        return Ok(None);
    };
    let directory = dirs.path(*top);
    let path = directory.join(METADATA);
    store(&path, |mut file| file.write_all(&metadata))?;
    let seen = |id: &u64| {
        let tar = tar(dirs, *id);
        Seen::of(&tar).map(Some).during("open", tar.display())
    };
    let record = Record {
        layers: from_lowest().copied().collect(),
        tars: from_lowest().map(seen).collect::<Result<_>>()?,
        metadata: Stored::of(&path).during("read", path.display())?,
        sparse: None,
        on_demand: Vec::new(),
    };
    record_image(dirs, &record, &directory).map(Some)
}

/// Makes the image of layers. Its record is written last.
fn make(dirs: &SnapshotDirs, chain: &[u64]) -> Result<Image> {
    let Some(top) = chain.first() else {
        return Err(Error::internal(
            "cannot make an EROFS image: expected at least one layer, found none; please report it",
        ));
    };
    let directory = dirs.path(*top);
    let mut layers = Layers::new(&directory);
    let (mut tars, mut on_demand) = (Vec::new(), Vec::new());
    for &id in chain.iter().rev() {
        let path = dirs.path(id);
        let added = if lazy::is_on_demand(dirs, id) {
            on_demand.push(id);
            tars.push(None);
            lazy::add(dirs, id, &mut layers)
        } else {
            let tar = tar(dirs, id);
            tars.push(Some(Seen::of(&tar).during("open", tar.display())?));
            erofs::open_file(&tar).and_then(|file| layers.add_file(file))
        };
        let named = |error: Error| error.operation("merge layer").within(path.display());
        for warning in added.map_err(named)? {
            tracing::warn!(layer = %path.display(), "{warning}");
        }
    }
    let sparse = layers.sparse();
    let (tree, data) = layers.finish();
    let image = cas_erofs::Image::new(&tree, &data)?;
    let (metadata_name, sparse_name) = names(&on_demand);
    let sparse = match sparse {
        None => None,
        Some(place) => {
            let path = directory.join(sparse_name);
            store(&path, |file| {
                let content = &data[place];
                file.set_len(content.length)?;
                copy_data(&content.file, content.length, file, 0)
            })?;
            Some((place, Stored::of(&path).during("read", path.display())?))
        }
    };
    let path = directory.join(metadata_name);
    store(&path, |mut file| file.write_all(image.metadata()))?;
    let record = Record {
        layers: chain.iter().rev().copied().collect(),
        tars,
        metadata: Stored::of(&path).during("read", path.display())?,
        sparse,
        on_demand,
    };
    record_image(dirs, &record, &directory)
}

/// Writes the record of an image whose files are complete. Returns the image.
fn record_image(dirs: &SnapshotDirs, record: &Record, directory: &Path) -> Result<Image> {
    let text = serde_json::to_vec(record).map_err(|error| {
        Error::internal("the record of an image could not be serialized; please report it")
            .source(error)
    })?;
    store(&directory.join(RECORD), |mut file| file.write_all(&text))?;
    let devices = devices(dirs, record);
    Ok(Image::new(dirs, record, &text, directory, devices))
}

/// Stores a file durably under its name, complete or not at all. Removes a directory, or a link to
/// one, that is in the place of the file.
fn store(path: &Path, write: impl FnOnce(&File) -> io::Result<()>) -> Result<()> {
    let stored = || {
        match undisturbed(|| path.symlink_metadata()) {
            Ok(found) if found.is_dir() => remove_all(path, true)?,
            Ok(found) if found.is_symlink() => undisturbed(|| fs::remove_file(path))?,
            _ => {}
        }
        let new = NewFile::begin(path)?;
        write(new.file())?;
        new.publish()
    };
    stored().during("write", path.display())
}

/// Returns the space that the files beside a layer take: the files of its image, and the files of a
/// layer that is read on demand. Returns zero if the directory is missing.
///
/// # Errors
/// Errors of the file system.
pub(crate) fn usage(directory: &Path) -> Result<Usage> {
    let mut sum = Usage::default();
    let entries = match undisturbed(|| fs::read_dir(directory)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(sum),
        entries => entries.during("list", directory.display())?,
    };
    for entry in entries {
        let entry = entry.during("list", directory.display())?;
        let name = entry.file_name();
        if !name.to_str().is_some_and(is_beside) {
            continue;
        }
        match undisturbed(|| entry.metadata()) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            found => {
                sum += Usage {
                    bytes: found.during("measure", entry.path().display())?.blocks() * 512,
                    inodes: 1,
                };
            }
        }
    }
    Ok(sum)
}

/// Returns whether a file with this name was made beside a layer after its commit.
fn is_beside(name: &str) -> bool {
    name == RECORD
        || name == StoredTable::TAR_FILE
        || name.ends_with(METADATA_END)
        || name.starts_with(SPARSE)
        || name.starts_with(StoredTable::PREFIX)
}

/// Compares the bytes of the image in the directory of a layer with the record of the image.
/// Returns the condition of the image. Returns `Sound` if the layer does not have an image, or if
/// the record does not parse. Does not compare a file that has another length or time than in the
/// record. In all these cases, the image is made again before its next use.
///
/// # Errors
/// Errors of the file system.
pub(crate) fn check(directory: &Path) -> Result<Condition> {
    let Some(text) = read_record(directory) else {
        return Ok(Condition::Sound);
    };
    // A record that does not parse belongs to an image that is made again.
    let Ok(record) = serde_json::from_slice::<Record>(&text) else {
        return Ok(Condition::Sound);
    };
    let (metadata, sparse) = names(&record.on_demand);
    let files = std::iter::once((metadata, &record.metadata));
    let sparse = (record.sparse.as_ref()).map(|(_, stored)| (sparse, stored));
    for (name, stored) in files.chain(sparse) {
        let path = directory.join(&name);
        // An image with a file of another length or time is not used, but made again.
        if stored.is_at(&path) && !stored.has_bytes(&path).during("read", path.display())? {
            return Ok(Condition::Damaged(format!(
                "the bytes of {name} were changed after it was written"
            )));
        }
    }
    Ok(Condition::Sound)
}

/// Removes the image in the directory of a layer if its bytes were changed. Mounts of the image
/// keep its files. The record is removed first, so that a kill leaves only files that the next
/// image replaces.
///
/// # Errors
/// Errors of the file system.
pub(crate) fn discard_damaged(directory: &Path) -> Result<()> {
    alone(directory, || {
        if check(directory)? == Condition::Sound {
            return Ok(());
        }
        let record = read_record(directory).and_then(|text| serde_json::from_slice(&text).ok());
        let (metadata, sparse) = names(&record.map_or(Vec::new(), |one: Record| one.on_demand));
        for name in [RECORD.to_owned(), metadata, sparse] {
            let path = directory.join(name);
            let remove = || match undisturbed(|| path.symlink_metadata()) {
                Ok(found) if found.is_dir() => remove_all(&path, true),
                Ok(_) => undisturbed(|| fs::remove_file(&path)),
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
                Err(error) => Err(error),
            };
            remove().during("remove", path.display())?;
        }
        Ok(())
    })
}
