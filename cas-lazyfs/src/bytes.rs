//! Files that inform other processes about a layer: how much of it has arrived, and which of its
//! members were read.

use std::io::Write;
use std::path::Path;

use cas_core::{Context, Error, Result};
use cas_host::read_file;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::place::Place;

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
pub(crate) fn write<T: Serialize>(place: &Place, name: &str, value: &T) -> Result<()> {
    let text = serde_json::to_vec(value).map_err(|error| {
        let why = "the state of a layer that is read on demand could not be serialized; please \
                   report it";
        Error::internal(why).source(error)
    })?;
    let new = format!("{name}.new");
    let written = place.new_file(&new)?.write_all(&text);
    let written = written.and_then(|()| place.dir().rename(&*new, place.dir(), name));
    written.during("write", place.shown(name).display())
}
