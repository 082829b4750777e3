//! The record of an EROFS image, `image.json`: which layers and files the image has.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use cas_core::{Algorithm, Digest, Hasher, Result};
use cas_host::calls::undisturbed;
use cas_host::{calls, fill};
use rustix::fs::SeekFrom;
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

/// Size in bytes of the buffer that files are read into, a multiple of [`BLOCK`].
const BUFFER: usize = 256 << 10;
/// Size in bytes of the blocks of a file that are digested if they are not all zeros.
const BLOCK: usize = 4 << 10;

/// The layers and the files of an image when it was made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record {
    /// The numbers of the layers' directories, lowest first.
    pub(crate) layers: Vec<u64>,
    /// The tars of these layers; `None` for a layer that was read on demand.
    #[serde(default)]
    pub(crate) tars: Vec<Option<Seen>>,
    pub(crate) metadata: Stored,
    /// The file with the content of sparse files, and its place among the data files.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) sparse: Option<(usize, Stored)>,
    /// The numbers of the layers that were read on demand when the image was made, lowest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) on_demand: Vec<u64>,
}

/// A file that was stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Stored {
    /// The SHA-256 digest of the blocks that are not all zeros. Before each block, its offset is
    /// digested as 8 bytes, lowest byte first. Holes need not be read.
    blocks: Digest,
    #[serde(flatten)]
    seen: Seen,
}

/// The properties of a file that are known without reading it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Seen {
    /// Length in bytes.
    length: u64,
    /// Time of the last change of its bytes: seconds and nanoseconds since 1970.
    modified: (i64, i64),
}

impl Seen {
    /// Returns the description of the file at `path`.
    pub(crate) fn of(path: &Path) -> io::Result<Self> {
        let found = undisturbed(|| fs::symlink_metadata(path))?;
        Ok(Seen {
            length: found.len(),
            modified: (found.mtime(), found.mtime_nsec()),
        })
    }

    /// Returns whether `path` is a file with this length and time.
    pub(crate) fn is_at(&self, path: &Path) -> bool {
        undisturbed(|| fs::symlink_metadata(path)).is_ok_and(|found| {
            let same_time = (found.mtime(), found.mtime_nsec()) == self.modified;
            found.is_file() && found.len() == self.length && same_time
        })
    }
}

impl Stored {
    /// Reads a file. Returns its description.
    pub(crate) fn of(path: &Path) -> io::Result<Self> {
        let seen = Seen::of(path)?;
        Ok(Stored {
            blocks: digest(path)?,
            seen,
        })
    }

    /// Returns whether `path` is a file with the recorded length and time. Does not read its bytes.
    pub(crate) fn is_at(&self, path: &Path) -> bool {
        self.seen.is_at(path)
    }

    /// Reads a file. Returns whether it has the recorded bytes.
    ///
    /// # Errors
    /// Errors of the file system.
    pub(crate) fn has_bytes(&self, path: &Path) -> Result<bool> {
        Ok(digest(path)? == self.blocks)
    }
}

/// Returns the digest of the blocks of a file. Does not read its holes.
fn digest(path: &Path) -> io::Result<Digest> {
    let file = undisturbed(|| File::open(path))?;
    let mut hasher = Hasher::new(Algorithm::Sha256);
    let mut buffer = vec![0; BUFFER];
    let mut next = 0;
    while let Some(data) = seek(&file, SeekFrom::Data(next))? {
        let end = seek(&file, SeekFrom::Hole(data))?.unwrap_or(u64::MAX);
        next = data - data % BLOCK as u64;
        while next < end {
            let read = fill(&file, &mut buffer, next)?;
            for block in buffer[..read].chunks(BLOCK) {
                if block.iter().any(|&byte| byte != 0) {
                    hasher.update(&next.to_le_bytes());
                    hasher.update(block);
                }
                next += BLOCK as u64;
            }
            if read < BUFFER {
                break;
            }
        }
    }
    Ok(hasher.finish())
}

/// Returns the offset of the next data or of the next hole. Returns `None` if there is none.
fn seek(file: &File, to: SeekFrom) -> io::Result<Option<u64>> {
    match calls::seek(file, to) {
        Ok(at) => Ok(Some(at)),
        Err(Errno::NXIO) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

    use super::*;

    const MIB: u64 = 1 << 20;

    /// Makes a file of `length` bytes with these bytes at these offsets.
    fn file(path: &Path, length: u64, pieces: &[(u64, &[u8])]) -> Stored {
        let file = File::create(path).unwrap();
        file.set_len(length).unwrap();
        for (offset, bytes) in pieces {
            file.write_all_at(bytes, *offset).unwrap();
        }
        Stored::of(path).unwrap()
    }

    /// Reading the holes of this file would take hours.
    #[test]
    fn holes_are_not_read_and_do_not_count() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("file");
        let far = (1 << 40) - 3;
        let pieces: [(u64, &[u8]); 3] = [(5, b"first"), (3 * MIB, b"second"), (far, b"end")];
        let stored = file(&path, 1 << 40, &pieces);
        assert!(stored.is_at(&path) && stored.has_bytes(&path).unwrap());
        for (offset, bytes) in [(far, b"and"), (8 * MIB, b"new"), (5, b"\0\0\0")] {
            let changed = File::options().write(true).open(&path).unwrap();
            changed.write_all_at(bytes, offset).unwrap();
            assert!(!stored.has_bytes(&path).unwrap(), "{offset}");
            file(&path, 1 << 40, &pieces);
            assert!(stored.has_bytes(&path).unwrap(), "{offset}");
        }
    }

    #[test]
    fn zeros_and_holes_are_the_same_and_offsets_are_not() {
        let temp = tempfile::tempdir().unwrap();
        let of = |pieces: &[(u64, &[u8])]| {
            let stored = file(&temp.path().join("file"), 3 * MIB + 7, pieces);
            stored.blocks
        };
        let zeros = vec![0; MIB as usize];
        let one = of(&[(MIB, b"bytes"), (3 * MIB + 6, b"e")]);
        let filled = [(0, &zeros[..]), (MIB, &zeros), (2 * MIB, &zeros)];
        let other = [&filled[..], &[(MIB, b"bytes"), (3 * MIB + 6, b"e")]].concat();
        assert_eq!(one, of(&other));
        assert_ne!(one, of(&[(2 * MIB, b"bytes"), (3 * MIB + 6, b"e")]));
        assert_ne!(of(&[]), of(&[(0, b"x")]));
    }
}
