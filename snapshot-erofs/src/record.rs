//! What is recorded about an image.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use cas_core::{Algorithm, Digest, Hasher, Result};
use serde::{Deserialize, Serialize};

/// Size in bytes of the buffer that files are read into.
const BUFFER: usize = 256 << 10;

/// The layers and the files of an image when it was made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record {
    /// The numbers of the layers' directories, lowest first.
    pub(crate) layers: Vec<u64>,
    pub(crate) metadata: Stored,
    /// The file with the content of sparse files, and its place among the data files.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) sparse: Option<(usize, Stored)>,
}

/// A file that was stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Stored {
    digest: Digest,
    /// Length in bytes.
    length: u64,
    /// Time of the last change of its bytes: seconds and nanoseconds since 1970.
    modified: (i64, i64),
}

impl Stored {
    /// Reads a file. Returns its description.
    pub(crate) fn of(path: &Path) -> io::Result<Self> {
        let found = fs::symlink_metadata(path)?;
        Ok(Stored {
            digest: digest(path)?,
            length: found.len(),
            modified: (found.mtime(), found.mtime_nsec()),
        })
    }

    /// Returns whether `path` is a file with the recorded length and time. Does not read its bytes.
    pub(crate) fn is_at(&self, path: &Path) -> bool {
        fs::symlink_metadata(path).is_ok_and(|found| {
            let same_time = (found.mtime(), found.mtime_nsec()) == self.modified;
            found.is_file() && found.len() == self.length && same_time
        })
    }

    /// Reads a file. Returns whether it has the recorded bytes.
    ///
    /// # Errors
    /// Errors of the file system.
    pub(crate) fn has_bytes(&self, path: &Path) -> Result<bool> {
        Ok(digest(path)? == self.digest)
    }
}

fn digest(path: &Path) -> io::Result<Digest> {
    let mut file = File::open(path)?;
    let mut hasher = Hasher::new(Algorithm::Sha256);
    let mut buffer = vec![0; BUFFER];
    loop {
        match file.read(&mut buffer) {
            Ok(0) => return Ok(hasher.finish()),
            Ok(read) => hasher.update(&buffer[..read]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}
