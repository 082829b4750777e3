//! Layers that are read on demand. The directory `fs/` of the snapshot of such a layer contains the
//! layer's table of contents. When all bytes of the layer have arrived, the layer's tar is made
//! beside the directory `fs/`. The snapshot of any other layer has its tar in `fs/`.

use std::fs;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use cas_core::error::malformed;
use cas_core::snapshot::{Condition, Depth, OnDemandBytes};
use cas_core::{Context, Error, ErrorKind, Result};
use cas_erofs::Layers;
use cas_host::calls::undisturbed;
use cas_host::{Pace, SnapshotDirs, TREE, digest_of, erofs, read_file, sum_of_range};
use cas_lazy::{LazyLayer, StoredTable};

/// The name of the directory in which a process serves one data file for each layer that is read on
/// demand. The name of the data file is the number of the layer's snapshot.
pub const SERVED: &str = "lazy";

/// The number by which `statfs` reports a FUSE file system.
const FUSE: i64 = 0x6573_5546;

/// Returns whether the layer with this number is read on demand, and its tar is not complete.
pub(crate) fn is_on_demand(dirs: &SnapshotDirs, id: u64) -> bool {
    let path = dirs.path(id).join(TREE).join(StoredTable::FILE);
    let has_table = undisturbed(|| fs::symlink_metadata(&path)).is_ok_and(|found| found.is_file());
    has_table && complete_tar(dirs, id).is_none()
}

/// Returns the path of the tar of a layer that was read on demand. Returns `None` if the layer is
/// not complete, or was never read on demand.
pub(crate) fn complete_tar(dirs: &SnapshotDirs, id: u64) -> Option<PathBuf> {
    let path = dirs.path(id).join(StoredTable::TAR_FILE);
    undisturbed(|| fs::symlink_metadata(&path))
        .is_ok()
        .then_some(path)
}

/// Returns whether the layer of a snapshot is read on demand.
pub(crate) fn is_here(dirs: &SnapshotDirs, id: u64) -> bool {
    let description = dirs.path(id).join(TREE).join(StoredTable::FILE);
    undisturbed(|| fs::symlink_metadata(&description)).is_ok()
}

/// Returns the condition of a layer that is read on demand, and `Sound` for any other layer. Reads
/// the table of contents, unless `depth` is [`Depth::Directory`]: then returns `Sound` for every
/// layer. With [`Depth::Bytes`], also reads what has arrived of the layer.
///
/// # Errors
/// Errors of the file system.
pub(crate) fn check(dirs: &SnapshotDirs, id: u64, depth: Depth) -> Result<Condition> {
    if !is_here(dirs, id) || matches!(depth, Depth::Directory) {
        return Ok(Condition::Sound);
    }
    let found = match table(&dirs.path(id).join(TREE)) {
        Ok(layer) => match check_tar(dirs, id, depth)? {
            Condition::Sound => check_arrived(&dirs.path(id), &layer, depth)?,
            found => found,
        },
        Err(error) if is_damage(&error) => {
            let (description, table) = (StoredTable::FILE, StoredTable::TABLE_FILE);
            Condition::Damaged(format!("{description} or {table} is damaged: {error}"))
        }
        Err(error) => return Err(error),
    };
    Ok(found)
}

/// Returns whether an error of reading a table is caused by its bytes, or by a lost file.
fn is_damage(error: &Error) -> bool {
    use ErrorKind::{Corrupt, NotFound, OutOfRange, Unsupported};
    matches!(error.kind(), Corrupt | NotFound | OutOfRange | Unsupported)
}

/// Checks that the data file and the file of the checksums are regular files, if they are there.
/// With [`Depth::Bytes`], compares the pieces of a layer that have arrived with their checksums.
fn check_arrived(directory: &Path, layer: &LazyLayer, depth: Depth) -> Result<Condition> {
    for name in [StoredTable::DATA_FILE, StoredTable::PIECES_FILE] {
        let found = undisturbed(|| fs::symlink_metadata(directory.join(name)));
        if found.is_ok_and(|found| !found.is_file()) {
            return Ok(Condition::Damaged(format!("{name} is not a regular file")));
        }
    }
    let Depth::Bytes { per_second } = depth else {
        return Ok(Condition::Sound);
    };
    let opened = |name: &str| match erofs::open_file(&directory.join(name)) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        opened => opened
            .during("open", directory.join(name).display())
            .map(Some),
    };
    // The checksums are read first: the process that serves the layer writes them last.
    let Some(mut record) = opened(StoredTable::PIECES_FILE)? else {
        return Ok(Condition::Sound);
    };
    let mut recorded = Vec::new();
    let most = layer.pieces().len() * StoredTable::PIECE_RECORD;
    (&mut record)
        .take(most as u64 + 1)
        .read_to_end(&mut recorded)?;
    let data = opened(StoredTable::DATA_FILE)?;
    // The data file has become the complete tar, or was removed because the tar is complete. The
    // checksums were still found, because a kill came before their removal, or because this
    // function opened them before another process removed them.
    if data.is_none() && opened(StoredTable::TAR_FILE)?.is_some() {
        return Ok(Condition::Sound);
    }
    let mut damaged = usize::from(recorded.len() > most);
    let mut pace = Pace::new(per_second);
    let sums = StoredTable::piece_sums(&recorded, layer.pieces().len());
    for (piece, sum) in layer.pieces().iter().zip(sums).filter(|(_, sum)| *sum != 0) {
        let found = match &data {
            Some(data) => sum_of_range(data, piece.data.clone(), &mut pace)
                .during("read", directory.join(StoredTable::DATA_FILE).display())?,
            None => 0,
        };
        damaged += usize::from(found != sum);
    }
    Ok(match damaged {
        0 => Condition::Sound,
        damaged => Condition::Damaged(format!(
            "{} does not match the checksums in {} (differences: {damaged})",
            StoredTable::DATA_FILE,
            StoredTable::PIECES_FILE
        )),
    })
}

/// Returns the condition of the complete tar of a layer that was read on demand. Returns `Sound` if
/// the layer does not have such a tar. Only with [`Depth::Bytes`], the bytes of the tar are
/// compared with the diff ID.
///
/// # Errors
/// `Corrupt` if the description with the diff ID is damaged; errors of the file system.
pub(crate) fn check_tar(dirs: &SnapshotDirs, id: u64, depth: Depth) -> Result<Condition> {
    let Some(path) = complete_tar(dirs, id) else {
        return Ok(Condition::Sound);
    };
    let found = undisturbed(|| fs::symlink_metadata(&path)).during("measure", path.display())?;
    if !found.is_file() || (found.mtime(), found.mtime_nsec()) != (0, 0) {
        let what = format!(
            "{} was changed after it was completed",
            StoredTable::TAR_FILE
        );
        return Ok(Condition::Damaged(what));
    }
    let Depth::Bytes { per_second } = depth else {
        return Ok(Condition::Sound);
    };
    let description = dirs.path(id).join(TREE).join(StoredTable::FILE);
    let stored = read_file(&description).during("read", description.display())?;
    let expected = StoredTable::from_bytes(&stored)?.diff_id;
    let file = erofs::open_file(&path).during("open", path.display())?;
    let mut pace = Pace::new(per_second);
    let found = digest_of(&file, expected.algorithm(), &mut pace).during("read", path.display())?;
    Ok(match found {
        same if same == expected => Condition::Sound,
        other => Condition::Damaged(format!(
            "{} has the digest {other}, expected {expected}",
            StoredTable::TAR_FILE
        )),
    })
}

/// Returns how much of a layer has arrived, or `None` if the layer was never read on demand. The
/// process that serves the layer writes these numbers from time to time.
///
/// # Errors
/// `Corrupt` if the written numbers are damaged; if no numbers were written, `NotFound` if the
/// table of contents is missing, and as [`StoredTable::read`]; errors of the file system.
pub(crate) fn arrived(dirs: &SnapshotDirs, id: u64) -> Result<Option<OnDemandBytes>> {
    let tree = dirs.path(id).join(TREE);
    if undisturbed(|| fs::symlink_metadata(tree.join(StoredTable::FILE))).is_err() {
        return Ok(None);
    }
    let path = dirs.path(id).join(StoredTable::BYTES_FILE);
    let text = match read_file(&path) {
        // Nothing has read the layer yet, or a power failure has lost the numbers.
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let total = table(&tree)?.length();
            return Ok(Some(OnDemandBytes {
                total,
                ..OnDemandBytes::default()
            }));
        }
        text => text.during("read", path.display())?,
    };
    let parsed = serde_json::from_slice(&text);
    parsed.map(Some).map_err(|error| {
        malformed(
            "the file does not state how many bytes of the layer have arrived",
            &error,
        )
        .advice("remove the file, which is written again when the layer is next read on demand")
        .subject(path.display())
    })
}

/// Returns the path of the data file of a layer that is read on demand.
pub(crate) fn device(dirs: &SnapshotDirs, id: u64) -> PathBuf {
    dirs.beside(SERVED).join(id.to_string())
}

/// Returns the number of the session that serves the data files: the device number of the file
/// system on which they are served. Returns 0 if the directory [`SERVED`] cannot be found.
pub(crate) fn session(dirs: &SnapshotDirs) -> u64 {
    undisturbed(|| fs::metadata(dirs.beside(SERVED))).map_or(0, |found| found.dev())
}

/// Removes the data files of layers whose tars are complete, and the checksums of their pieces.
/// Does nothing if an image in the directory `mounts` may be mounted on data files of the current
/// session. A kill leaves files that the next call removes. If a caller mounts an older image
/// afterwards, which still reads such a layer on demand, the bytes are fetched again.
///
/// # Errors
/// Errors of the file system.
pub(crate) fn remove_unused_data(dirs: &SnapshotDirs, mounts: &Path) -> Result<()> {
    if is_served(&dirs.beside(SERVED)) {
        let of_session = format!("-{}", session(dirs));
        let is_mounted = |entry: &fs::DirEntry| {
            let name = entry.file_name();
            name.to_str()
                .is_some_and(|name| name.ends_with(&of_session))
        };
        let entries = undisturbed(|| fs::read_dir(mounts)).into_iter().flatten();
        if entries.flatten().any(|entry| is_mounted(&entry)) {
            return Ok(());
        }
    }
    for id in dirs.ids()? {
        if complete_tar(dirs, id).is_none() {
            continue;
        }
        for name in [StoredTable::PIECES_FILE, StoredTable::DATA_FILE] {
            let path = dirs.path(id).join(name);
            match undisturbed(|| fs::remove_file(&path)) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                removed => removed.during("remove", path.display())?,
            }
        }
    }
    Ok(())
}

/// Returns whether a process serves the data files in `served`, the directory [`SERVED`] of the
/// snapshotter.
pub fn is_served(served: &Path) -> bool {
    // The kernel asks the process for this each time, and does not keep the answer.
    let found = rustix::fs::statfs(served);
    found.is_ok_and(|found| found.f_type == FUSE)
}

/// Checks that [`is_served`] returns true for `served`.
///
/// # Errors
/// `FailedPrecondition` if no process serves the data files in `served`.
pub fn check_served(served: &Path) -> Result<()> {
    if is_served(served) {
        return Ok(());
    }
    Err(Error::precondition(
        "the image has layers that are read on demand, and no process serves them; run `cas lazy \
         serve`",
    ))
}

/// Adds a layer that is read on demand to the layers of an image. Returns the warnings.
///
/// # Errors
/// As [`StoredTable::read`] for the table of contents; `NotFound` if the table is missing; as
/// [`Layers::add_members`]; errors of the file system.
pub(crate) fn add(dirs: &SnapshotDirs, id: u64, layers: &mut Layers) -> Result<Vec<String>> {
    let tree = dirs.path(id).join(TREE);
    let layer = table(&tree)?;
    // The image needs only the length of the data file, so any file can take its place here.
    let table = tree.join(StoredTable::TABLE_FILE);
    let file = erofs::open_file(&table).during("open", table.display())?;
    let members = layer.members().iter();
    let members = members.map(|member| (&member.entry, member.offset));
    layers.add_members(file, layer.length(), members)
}

/// Reads the table of contents of the layer in `tree`.
fn table(tree: &Path) -> Result<LazyLayer> {
    let read = |name: &str| {
        let path = tree.join(name);
        read_file(&path).during("read", path.display())
    };
    StoredTable::from_bytes(&read(StoredTable::FILE)?)?.read(&read(StoredTable::TABLE_FILE)?)
}

#[cfg(test)]
mod tests {
    #![allow(
        clippy::panic,
        clippy::unwrap_used,
        reason = "a test may fail anywhere"
    )]

    use std::io::Write;

    use cas_core::{Descriptor, Digest};
    use cas_lazy::{TableFormat, Ztoc};
    use testkit::archive::Tar;

    use super::*;

    fn layer() -> LazyLayer {
        let tar = Tar::new().file("file", "text").end();
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(&tar).unwrap();
        let blob = gzip.finish().unwrap();
        let table = Ztoc::build(&blob[..], 64 << 10, "test").unwrap();
        let table = table.encode().unwrap();
        let size = blob.len() as u64;
        let stored = StoredTable {
            reference: "registry.example/app:1".to_owned(),
            layer: Descriptor::new("application/gzip".into(), Digest::sha256(&blob), size),
            diff_id: Digest::sha256(&tar),
            format: TableFormat::Ztoc {
                digest: Digest::sha256(&table),
            },
        };
        stored.read(&table).unwrap()
    }

    #[test]
    fn something_else_in_the_place_of_a_data_file_is_damage() {
        let layer = layer();
        for name in [StoredTable::DATA_FILE, StoredTable::PIECES_FILE] {
            let temp = tempfile::tempdir().unwrap();
            let path = temp.path().join(name);
            let found = |depth| match check_arrived(temp.path(), &layer, depth).unwrap() {
                Condition::Damaged(what) => what,
                found => panic!("{found:?}"),
            };
            let expected = format!("{name} is not a regular file");
            std::os::unix::fs::symlink(temp.path().join("absent"), &path).unwrap();
            assert_eq!(found(Depth::Files), expected);
            fs::remove_file(&path).unwrap();
            fs::create_dir(&path).unwrap();
            assert_eq!(found(Depth::Bytes { per_second: None }), expected);
            fs::remove_dir(&path).unwrap();
            let check = check_arrived(temp.path(), &layer, Depth::Files);
            assert!(matches!(check.unwrap(), Condition::Sound));
        }
    }

    /// A kill leaves this state after the data file has become the complete tar.
    #[test]
    fn checksums_of_a_data_file_that_has_become_the_tar_are_no_damage() {
        let (temp, layer) = (tempfile::tempdir().unwrap(), layer());
        let sums = vec![1; layer.pieces().len() * StoredTable::PIECE_RECORD];
        fs::write(temp.path().join(StoredTable::PIECES_FILE), sums).unwrap();
        let check = || check_arrived(temp.path(), &layer, Depth::Bytes { per_second: None });
        assert!(matches!(check().unwrap(), Condition::Damaged(_)));
        fs::write(temp.path().join(StoredTable::TAR_FILE), "").unwrap();
        assert!(matches!(check().unwrap(), Condition::Sound));
    }
}
