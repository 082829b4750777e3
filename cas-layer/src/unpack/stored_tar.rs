//! Layers that a snapshotter keeps as files: uncompressed tars, or EROFS images.

use std::fs::File;
use std::io::{self, BufRead, Write};
use std::os::fd::BorrowedFd;

use cas_core::snapshot::{LAYER_IMAGE, LAYER_TAR};
use cas_core::{Context, Error, Result};
use cas_host::calls;
use rustix::fs::{Mode, OFlags};

use crate::codec;

/// Stores the bytes of a layer in `directory`, which must not have a layer. They are not synced.
///
/// # Errors
/// `AlreadyExists` if the directory has a layer of the same kind; errors of `bytes` and of the file
/// system.
pub(super) fn store(bytes: &mut dyn BufRead, directory: BorrowedFd<'_>) -> Result<()> {
    let name = match codec::is_erofs(bytes.fill_buf()?) {
        true => LAYER_IMAGE,
        false => LAYER_TAR,
    };
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    let opened = calls::openat(directory, name, flags, Mode::RUSR | Mode::WUSR);
    let opened = opened.map_err(io::Error::from).during("create", name);
    let mut file = File::from(opened?);
    loop {
        let piece = bytes.fill_buf()?;
        if piece.is_empty() {
            return Ok(());
        }
        file.write_all(piece).during("write", name)?;
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
