//! Merged metadata in directories of ready layers, and the files of such a directory as
//! [`write_ready_layers`] makes them.
//!
//! ```text
//! DIR/merged/sha256/51c0...erofs   the merged metadata of the layers with this chain ID
//! DIR/merged/sha256/51c0...json    the lengths of the tars, and the digest of the metadata
//! ```
//! The metadata is copied into the root, because it is small, and is read at every mount.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use cas_core::error::malformed;
use cas_core::snapshot::chain_ids;
use cas_core::{Context, Digest, Error, ErrorKind, Result, limit};
use cas_host::calls::{proc_path, undisturbed};
use cas_host::{NewFile, Pace, calls, copy_data, digest_of, erofs};
use serde::{Deserialize, Serialize};

use crate::ready;

/// What is recorded about merged metadata.
#[derive(Debug, Serialize, Deserialize)]
struct Merged {
    /// The lengths in bytes of the tars, lowest layer first.
    tars: Vec<u64>,
    /// The SHA-256 digest of the metadata.
    digest: Digest,
    /// Length of the metadata in bytes.
    length: u64,
}

/// Reads the merged metadata of the layers with these diff IDs and lengths, lowest first, from the
/// first of `directories` that has it. Logs and passes over metadata that is damaged, or that was
/// made of tars of other lengths. Returns `None` if there is none that can be used.
pub(crate) fn read(
    directories: &[PathBuf],
    diff_ids: &[Digest],
    lengths: &[u64],
) -> Option<Vec<u8>> {
    for directory in directories {
        let (record, metadata) = places(directory, diff_ids)?;
        match read_one(&record, &metadata, lengths) {
            Ok(bytes) => return Some(bytes),
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => tracing::warn!(
                path = %metadata.display(),
                %error,
                "ready metadata cannot be used, and is made again"
            ),
        }
    }
    None
}

fn read_one(record: &Path, metadata: &Path, lengths: &[u64]) -> Result<Vec<u8>> {
    let mut text = Vec::new();
    let file = erofs::open_file(record)?;
    file.take(limit::LAYOUT_FILE).read_to_end(&mut text)?;
    let recorded: Merged = serde_json::from_slice(&text)
        .map_err(|error| malformed("the record of the metadata does not parse", &error))?;
    if recorded.tars != lengths {
        return Err(Error::corrupt(
            "the metadata was made of tars of other lengths",
        ));
    }
    let mut bytes = Vec::new();
    let file = erofs::open_file(metadata)?;
    let (length, expected) = (undisturbed(|| file.metadata())?.len(), recorded.length);
    if length != expected {
        return Err(Error::corrupt(format!(
            "expected {expected} bytes, as the record of the metadata states, found {length}"
        )));
    }
    file.take(recorded.length).read_to_end(&mut bytes)?;
    let (digest, expected) = (Digest::sha256(&bytes), recorded.digest);
    if digest != expected {
        return Err(Error::corrupt(format!(
            "expected the digest {expected}, as the record of the metadata states, found {digest}"
        )));
    }
    Ok(bytes)
}

/// Returns the paths of the record and of the merged metadata of the layers with these diff IDs.
/// Returns `None` if there are no layers.
fn places(directory: &Path, diff_ids: &[Digest]) -> Option<(PathBuf, PathBuf)> {
    let chain_id = chain_ids(diff_ids).pop()?;
    let merged = directory.join("merged").join(chain_id.algorithm().name());
    let named = |kind: &str| merged.join(format!("{}.{kind}", chain_id.hex()));
    Some((named("json"), named("erofs")))
}

/// Writes the layers of a container image to a directory of ready layers. `tars` are the tars of
/// the layers with their diff IDs and lengths, lowest first. `metadata` is their merged metadata,
/// or `None` if it refers to one more file, which has the content of sparse files. A file that has
/// the right bytes already is not changed, because snapshots may refer to it. Each new file appears
/// under its name when it is complete. A kill leaves complete files, and temporary files that the
/// next call removes.
///
/// # Errors
/// `Corrupt` if a tar does not have its diff ID; errors of the file system.
pub fn write_ready_layers(
    directory: &Path,
    tars: &[(Digest, &File, u64)],
    metadata: Option<&[u8]>,
) -> Result<()> {
    for (diff_id, tar, length) in tars {
        let path = ready::place(directory, diff_id);
        write(&path, diff_id, |file| copy_data(tar, *length, file, 0))?;
    }
    let diff_ids: Vec<Digest> = tars.iter().map(|(diff_id, ..)| *diff_id).collect();
    let (Some(metadata), Some((record, path))) = (metadata, places(directory, &diff_ids)) else {
        return Ok(());
    };
    let digest = Digest::sha256(metadata);
    let merged = Merged {
        tars: tars.iter().map(|(.., length)| *length).collect(),
        digest,
        length: metadata.len() as u64,
    };
    let text = serde_json::to_vec(&merged).map_err(|error| {
        Error::internal("a record of metadata could not be serialized; please report it")
            .source(error)
    })?;
    write(&path, &digest, |mut file| file.write_all(metadata))?;
    write(&record, &Digest::sha256(&text), |mut file| {
        file.write_all(&text)
    })
}

/// Writes a file, unless it is there already. The written bytes are compared with the digest before
/// the file has its name, because other programs may use it from then on.
///
/// # Errors
/// `Corrupt` if the written bytes do not have the digest; errors of the file system.
fn write(path: &Path, digest: &Digest, fill: impl FnOnce(&File) -> io::Result<()>) -> Result<()> {
    let written = || {
        if has(path, digest)? {
            return Ok(());
        }
        if let Some(parent) = path.parent() {
            calls::make_dirs(parent)?;
        }
        let new = NewFile::begin(path)?;
        fill(new.file())?;
        let file = undisturbed(|| File::open(proc_path(new.file())))?;
        let found = digest_of(&file, digest.algorithm(), &mut Pace::new(None))?;
        if found != *digest {
            return Err(Error::corrupt(format!(
                "expected the written file to have the digest {digest}, found {found}; check the \
                 disk, and repeat the command"
            )));
        }
        new.publish()
    };
    written().during("write", path.display())
}

/// Returns whether a path is a file with this digest.
fn has(path: &Path, digest: &Digest) -> Result<bool> {
    let file = match erofs::open_file(path) {
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::Corrupt) => {
            return Ok(false);
        }
        file => file?,
    };
    Ok(digest_of(&file, digest.algorithm(), &mut Pace::new(None))? == *digest)
}
