//! Layers that a snapshotter keeps as files: uncompressed tars, or EROFS images.

use std::fs::OpenOptions;
use std::io::{BufRead, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use cas_core::snapshot::{LAYER_IMAGE, LAYER_TAR};
use cas_core::{Context, Error, Result};

use crate::codec;

/// Stores the bytes of a layer in `directory`, which must not have a layer. They are not synced.
///
/// # Errors
/// `AlreadyExists` if the directory has a layer of the same kind; errors of `bytes` and of the file
/// system.
pub(super) fn store(bytes: &mut dyn BufRead, directory: &Path) -> Result<()> {
    let path = directory.join(match codec::is_erofs(bytes.fill_buf()?) {
        true => LAYER_IMAGE,
        false => LAYER_TAR,
    });
    let opened = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&path);
    let mut file = opened.during("create", path.display())?;
    loop {
        let piece = bytes.fill_buf()?;
        if piece.is_empty() {
            return Ok(());
        }
        file.write_all(piece).during("write", path.display())?;
        let length = piece.len();
        bytes.consume(length);
    }
}

/// Returns the error for a snapshotter that keeps layers in a way that is not known here.
pub(super) fn unknown_target() -> Error {
    Error::unsupported(
        "the snapshotter keeps layers in a way that this release does not support; use another \
         snapshotter",
    )
    .operation("unpack")
}
