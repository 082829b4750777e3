//! Reading the documents of a store: `index.json` and `oci-layout`.

use std::io;

use cas_core::{Error, Result};
use cas_host::Dir;

use crate::index::REPAIR;

/// Returns the content of a file, or `None` if the file is absent.
///
/// # Errors
/// `Corrupt` for a directory; `OutOfRange` for a file of more than `limit` bytes; errors of the
/// file system.
pub(crate) fn read(root: &Dir, name: &str, limit: u64) -> Result<Option<Vec<u8>>> {
    root.read(name, limit).map_err(|error| match error.kind() {
        io::ErrorKind::IsADirectory => Error::corrupt(format!(
            "expected the file {name}, found a directory; {REPAIR}"
        )),
        _ => error.into(),
    })
}
