//! Layers that a snapshotter keeps as files: uncompressed tars, or EROFS images.

use std::fs::{self, File};
use std::io::{self, BufRead, Write};
use std::os::fd::BorrowedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use cas_core::snapshot::{LAYER_IMAGE, LAYER_TAR};
use cas_core::{Context, Digest, Error, Result};
use cas_host::calls::{self, undisturbed};
use cas_host::{Pace, copy_data, digest_of};
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

/// Copies a tar to `directory`, which must not have a layer, if the bytes of the tar have the digest
/// `diff_id`. They are not synced. If the bytes have another digest or cannot be read, returns
/// false, and leaves no file.
///
/// # Errors
/// Errors of `directory`.
pub(super) fn copy(tar: &File, diff_id: &Digest, directory: &Path) -> Result<bool> {
    let has_digest = |file: &File| {
        let found = digest_of(file, diff_id.algorithm(), &mut Pace::new(None));
        found.is_ok_and(|found| found == *diff_id)
    };
    if !has_digest(tar) {
        return Ok(false);
    }
    let path = directory.join(LAYER_TAR);
    let copied = || {
        let mut options = File::options();
        options.read(true).write(true).create_new(true).mode(0o600);
        let copy = undisturbed(|| options.open(&path))?;
        let length = undisturbed(|| tar.metadata())?.len();
        copy.set_len(length)?;
        copy_data(tar, length, &copy, 0)?;
        // The tar may have been changed meanwhile.
        if has_digest(&copy) {
            return Ok(true);
        }
        undisturbed(|| fs::remove_file(&path)).map(|()| false)
    };
    copied().during("copy", path.display())
}

/// Returns the error for a snapshotter that keeps layers in a way that is not known here.
pub(super) fn unknown_target() -> Error {
    Error::unsupported(
        "the snapshotter keeps layers in a way that this release does not support; use another \
         snapshotter",
    )
    .operation("unpack")
}
