//! Ready layers: layers whose uncompressed bytes another program keeps in a directory outside of
//! the root. The option `layers` names these directories, which `cas` only reads.
//!
//! ```text
//! DIR/blobs/sha256/2c26...   the tar or the EROFS image with this diff ID, as in an OCI layout
//! DIR/merged/                merged metadata of tars: see the module `merged`
//! ```
//! The snapshot of such a layer has a reference, a small file, in the place of the layer. The bytes
//! of the layer are compared with the diff ID before the reference is written. Before each mount,
//! the attributes of the file are compared with those that the reference has.

use std::fs::{self, File, Metadata};
use std::io::{self, Read, Write};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use cas_core::snapshot::{Condition, LAYER_IMAGE, LAYER_TAR};
use cas_core::{Context, Descriptor, Digest, Error, ErrorKind, Result};
use cas_host::calls::undisturbed;
use cas_host::{Pace, SnapshotDirs, TREE, digest_of, erofs};
use serde::{Deserialize, Serialize};

/// The names that the file of a layer can have.
pub(crate) const LAYER_FILES: [&str; 2] = [LAYER_TAR, LAYER_IMAGE];
/// The names of the references that can take the places of these files.
pub(crate) const REFERENCES: [&str; 2] = ["layer.tar.ready", "layer.erofs.ready"];

/// Where the magic number of an EROFS image is, and the number.
const MAGIC: (u64, [u8; 4]) = (1024, *b"\xe2\xe1\xf5\xe0");

/// What a snapshot has in the place of a ready layer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Reference {
    /// The file with the layer.
    path: PathBuf,
    /// The digest of the file.
    diff_id: Digest,
    seen: Attributes,
}

/// The attributes of a file when its bytes were verified. A write changes at least one of them, and
/// so does another file in the place of the file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Attributes {
    /// Length in bytes.
    length: u64,
    /// Time of the last change of its bytes: seconds and nanoseconds since 1970.
    modified: (i64, i64),
    /// Time of the last change of its bytes or its attributes.
    changed: (i64, i64),
    inode: u64,
}

impl Attributes {
    fn of(found: &Metadata) -> Self {
        Attributes {
            length: found.len(),
            modified: (found.mtime(), found.mtime_nsec()),
            changed: (found.ctime(), found.ctime_nsec()),
            inode: found.ino(),
        }
    }
}

impl Reference {
    /// Returns what is wrong with the file of the layer, or `None` if it has the attributes with
    /// which it was verified.
    fn problem(&self) -> Option<String> {
        let path = self.path.display();
        match undisturbed(|| fs::symlink_metadata(&self.path)) {
            Ok(found) if found.is_file() && Attributes::of(&found) == self.seen => None,
            Ok(_) => Some(format!(
                "the ready layer {path} was changed after it was verified"
            )),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Some(format!("the ready layer {path} is missing"))
            }
            Err(error) => Some(format!("the ready layer {path} cannot be read: {error}")),
        }
    }
}

/// Writes a reference to a ready layer with this diff ID to the tree of `id`. The first of
/// `directories` that has the layer is used. Logs and passes over a file that cannot be read, or
/// that does not have the diff ID. `images` allows layers that are EROFS images. Returns whether a
/// reference was written, which the commit of the snapshot syncs.
///
/// # Errors
/// `AlreadyExists` if the tree has a reference; errors of writing the reference.
pub(crate) fn refer(
    directories: &[PathBuf],
    dirs: &SnapshotDirs,
    id: u64,
    layer: &Descriptor,
    diff_id: &Digest,
    images: bool,
) -> Result<bool> {
    for directory in directories {
        let path = place(directory, diff_id);
        let (reference, is_image) = match verified(&path, diff_id) {
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            Err(error) => {
                pass_over(&path, &error);
                continue;
            }
            Ok(verified) => verified,
        };
        if is_image && !(images && layer.media_type.is_erofs()) {
            let why = "it is an EROFS image, which the type of the layer or the options of the \
                       snapshotter do not allow";
            pass_over(&path, &Error::unsupported(why));
            continue;
        }
        let path = dirs
            .path(id)
            .join(TREE)
            .join(REFERENCES[usize::from(is_image)]);
        let text = serde_json::to_vec(&reference).map_err(|error| {
            Error::internal("a reference could not be serialized; please report it").source(error)
        })?;
        let mut new = File::options();
        new.write(true).create_new(true).mode(0o600);
        let created = undisturbed(|| new.open(&path));
        let written = created.and_then(|mut file| file.write_all(&text));
        written.during("write", path.display())?;
        return Ok(true);
    }
    Ok(false)
}

fn pass_over(path: &Path, error: &Error) {
    tracing::warn!(path = %path.display(), %error, "a ready layer cannot be used");
}

/// Returns the path of the layer with this diff ID in a directory of ready layers.
pub(crate) fn place(directory: &Path, diff_id: &Digest) -> PathBuf {
    let blobs = directory.join("blobs").join(diff_id.algorithm().name());
    blobs.join(diff_id.hex())
}

/// Reads a file. Returns a reference to it, and whether it is an EROFS image.
///
/// # Errors
/// `Corrupt` if it is not a regular file, if it does not have the diff ID, or if it is changed
/// meanwhile; errors of the file system.
fn verified(path: &Path, diff_id: &Digest) -> Result<(Reference, bool)> {
    let file = erofs::open_file(path)?;
    let seen = Attributes::of(&undisturbed(|| file.metadata())?);
    let found = digest_of(&file, diff_id.algorithm(), &mut Pace::new(None))?;
    if found != *diff_id {
        return Err(Error::corrupt(format!(
            "its bytes hash to {found}; put the right file in its place, or remove it"
        )));
    }
    let reference = Reference {
        path: path.to_owned(),
        diff_id: *diff_id,
        seen,
    };
    if Attributes::of(&undisturbed(|| file.metadata())?) != reference.seen {
        return Err(Error::corrupt("it was changed while it was read"));
    }
    let (offset, magic) = MAGIC;
    let mut first = [0; MAGIC.1.len()];
    let is_image = file.read_exact_at(&mut first, offset).is_ok() && first == magic;
    Ok((reference, is_image))
}

/// Returns the reference in the tree of a snapshot, or `None` if there is none. `name` is one of
/// [`REFERENCES`].
///
/// # Errors
/// `Corrupt` if the reference does not parse or is not a regular file; errors of the file system.
fn read(dirs: &SnapshotDirs, id: u64, name: &str) -> Result<Option<Reference>> {
    let path = dirs.path(id).join(TREE).join(name);
    let mut file = match erofs::open_file(&path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        file => file?,
    };
    let mut text = Vec::new();
    file.read_to_end(&mut text)?;
    let parsed = serde_json::from_slice(&text);
    parsed
        .map(Some)
        .map_err(|error| cas_core::error::malformed("not a reference to a layer", &error))
}

/// Returns the diff ID and the length in bytes of the ready tar to which a snapshot refers. Returns
/// `None` if the snapshot does not refer to a ready tar.
pub(crate) fn tar(dirs: &SnapshotDirs, id: u64) -> Option<(Digest, u64)> {
    let reference = read(dirs, id, REFERENCES[0]).ok().flatten();
    reference.map(|reference| (reference.diff_id, reference.seen.length))
}

/// Returns whether a snapshot refers to a ready layer.
pub(crate) fn is_used(dirs: &SnapshotDirs, id: u64) -> bool {
    REFERENCES.iter().any(|name| exists(dirs, id, name))
}

/// Returns whether something has this name in the tree of a snapshot.
fn exists(dirs: &SnapshotDirs, id: u64, name: &str) -> bool {
    let path = dirs.path(id).join(TREE).join(name);
    undisturbed(|| fs::symlink_metadata(&path)).is_ok()
}

/// Returns the path of the file of a layer with this name, one of [`LAYER_FILES`]: in the tree of
/// its snapshot, or where the reference in the tree leads. The file may be absent.
pub(crate) fn layer_file(dirs: &SnapshotDirs, id: u64, name: &str) -> PathBuf {
    let reference = REFERENCES[usize::from(name == LAYER_IMAGE)];
    match read(dirs, id, reference) {
        Ok(Some(reference)) => reference.path,
        _ => dirs.path(id).join(TREE).join(name),
    }
}

/// Returns the name of the file of a layer, if the tree of its snapshot has the file or a reference
/// to it.
pub(crate) fn name(dirs: &SnapshotDirs, id: u64) -> Option<&'static str> {
    let mut files = LAYER_FILES.into_iter().zip(REFERENCES);
    let is_there = |name: &str| exists(dirs, id, name);
    let found = files.find(|(name, reference)| is_there(name) || is_there(reference));
    found.map(|(name, _)| name)
}

/// Returns the name and the path of the file of a layer, if the tree of its snapshot has the file
/// or a reference to it.
pub(crate) fn stored(dirs: &SnapshotDirs, id: u64) -> Option<(&'static str, PathBuf)> {
    let name = name(dirs, id)?;
    Some((name, layer_file(dirs, id, name)))
}

/// Returns the condition of a committed snapshot that has lost the file of its layer.
pub(crate) fn missing() -> Condition {
    Condition::Damaged("its layer file is missing".to_owned())
}

/// Returns the condition of the ready layer to which a snapshot refers, as far as its attributes
/// show. Returns `Sound` if the snapshot does not refer to a ready layer.
///
/// # Errors
/// Errors of the file system.
pub(crate) fn check(dirs: &SnapshotDirs, id: u64) -> Result<Condition> {
    for name in REFERENCES {
        let problem = match read(dirs, id, name) {
            Err(error) if error.kind() == ErrorKind::Corrupt => {
                Some(format!("{name} is damaged: {error}"))
            }
            reference => reference?.and_then(|reference| reference.problem()),
        };
        if let Some(problem) = problem {
            return Ok(Condition::Damaged(problem));
        }
    }
    Ok(Condition::Sound)
}
