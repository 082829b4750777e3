//! Layers that a snapshotter keeps as uncompressed tars.

use std::fs::OpenOptions;
use std::io::{BufRead, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use cas_core::snapshot::LAYER_TAR;
use cas_core::{Context, Error, Result};

/// Stores the bytes of a layer in `directory`, which must not have a tar. They are not synced.
///
/// # Errors
/// `AlreadyExists` if the directory has a tar; errors of `bytes` and of the file system.
pub(super) fn store(bytes: &mut dyn BufRead, directory: &Path) -> Result<()> {
    let path = directory.join(LAYER_TAR);
    let opened = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&path);
    let mut tar = opened.during("create", path.display())?;
    loop {
        let piece = bytes.fill_buf()?;
        if piece.is_empty() {
            return Ok(());
        }
        tar.write_all(piece).during("write", path.display())?;
        let length = piece.len();
        bytes.consume(length);
    }
}

/// Returns the error for a snapshotter that keeps layers in a way that is not known here.
pub(super) fn unknown_target() -> Error {
    Error::unsupported(
        "the snapshotter keeps layers in a way that this release does not know; use another \
         snapshotter",
    )
    .operation("unpack")
}
