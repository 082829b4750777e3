//! How much of a layer has arrived, in a file that other processes read.

use std::fs;
use std::path::Path;

use cas_core::snapshot::OnDemandBytes;
use cas_core::{Context, Error, Result};
use cas_lazy::StoredTable;

/// The name of the file while it is written.
const NEW: &str = "lazy.bytes.new";

/// Returns what the last process has written in the directory of a snapshot. If there is nothing,
/// or it is damaged, the numbers begin at zero.
pub(crate) fn read(directory: &Path) -> OnDemandBytes {
    let text = fs::read(directory.join(StoredTable::BYTES_FILE)).unwrap_or_default();
    serde_json::from_slice(&text).unwrap_or_default()
}

/// Replaces the file in the directory of a snapshot. The file is not durable: after a power cut,
/// only the numbers are lost.
///
/// # Errors
/// Errors of the file system.
pub(crate) fn write(directory: &Path, bytes: &OnDemandBytes) -> Result<()> {
    let text = serde_json::to_vec(bytes).map_err(|error| {
        Error::internal("the numbers of bytes of a layer could not be serialized; please report it")
            .source(error)
    })?;
    let (new, path) = (directory.join(NEW), directory.join(StoredTable::BYTES_FILE));
    let written = fs::write(&new, text).and_then(|()| fs::rename(&new, &path));
    written.during("write", path.display())
}
