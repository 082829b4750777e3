//! Which files of a layer were read.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use cas_core::{Context, Digest, Result};
use cas_host::{TREE, read_file};
use cas_lazy::StoredTable;

use crate::bytes;

/// The files of a layer that were read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FilesRead {
    /// The digest of the layer.
    pub layer: Digest,
    /// The paths of the files, as written in the tar of the layer, in the order in which the files
    /// were first read.
    pub paths: Vec<PathBuf>,
}

impl FilesRead {
    /// Returns which files of a snapshot's layer were read, in all sessions so far. `directory` is
    /// the directory of the snapshot. The process that serves the layer notes the files there once
    /// a second, and when the session ends. If these notes are missing or damaged, or if the layer
    /// does not have a zTOC, the list of paths is empty.
    ///
    /// # Errors
    /// `NotFound` if the snapshot has no layer that is read on demand, or if the layer's table of
    /// contents is missing; `Corrupt` if the table is damaged, or if `lazy.json`, which describes
    /// the layer, is damaged; `Unsupported` or `OutOfRange` if the table cannot be used; errors of
    /// the file system.
    pub fn of_snapshot(directory: &Path) -> Result<Self> {
        let read = |name: &str| {
            let path = directory.join(TREE).join(name);
            read_file(&path).during("read", path.display())
        };
        let stored = StoredTable::from_bytes(&read(StoredTable::FILE)?)?;
        let mut paths = Vec::new();
        let indexes = members(directory);
        if !indexes.is_empty() {
            let table = stored.read(&read(StoredTable::TABLE_FILE)?)?;
            let members = indexes
                .iter()
                .filter_map(|index| table.members().get(*index));
            paths.extend(members.map(|member| OsStr::from_bytes(&member.entry.path).into()));
        }
        let layer = stored.layer.digest;
        Ok(FilesRead { layer, paths })
    }
}

/// Returns the indexes of the members that were read, without repetitions. The process that serves
/// the layer notes them in the directory of the snapshot. If the notes are missing or damaged,
/// returns no indexes.
pub(crate) fn members(directory: &Path) -> Vec<usize> {
    let mut indexes: Vec<usize> = bytes::read(directory, StoredTable::READ_FILE);
    let mut known = BTreeSet::new();
    indexes.retain(|index| known.insert(*index));
    indexes
}
