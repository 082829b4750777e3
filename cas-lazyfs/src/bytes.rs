//! Files that inform other processes about a layer: how much of it has arrived, and which of its
//! members were read.

use std::fs;
use std::path::Path;

use cas_core::{Context, Error, Result};
use cas_host::read_file;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Returns what the last process has written to the file `name` in the directory of a snapshot. If
/// the file is missing or damaged, returns the default.
pub(crate) fn read<T: DeserializeOwned + Default>(directory: &Path, name: &str) -> T {
    let text = read_file(&directory.join(name)).unwrap_or_default();
    serde_json::from_slice(&text).unwrap_or_default()
}

/// Replaces the file `name` in the directory of a snapshot. The file is not synced: a loss of power
/// can lose the information in it, but nothing else.
///
/// # Errors
/// Errors of the file system.
pub(crate) fn write<T: Serialize>(directory: &Path, name: &str, value: &T) -> Result<()> {
    let text = serde_json::to_vec(value).map_err(|error| {
        let why = "the state of a layer that is read on demand could not be serialized; please \
                   report it";
        Error::internal(why).source(error)
    })?;
    let (new, path) = (directory.join(format!("{name}.new")), directory.join(name));
    let written = fs::write(&new, text).and_then(|()| fs::rename(&new, &path));
    written.during("write", path.display())
}
