//! Turns the changes of an active snapshot into the tar of a layer.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;

use cas_core::snapshot::LAYER_TAR;
use cas_core::{Algorithm, Context, Digest, Hasher, Result};
use cas_host::calls;
use cas_layer::changes;
use rustix::fs::{Mode, OFlags};

/// Size in bytes of the buffer for writes to the tar.
const BUFFER: usize = 256 << 10;
/// Size in bytes of the smallest hole.
const HOLE: usize = 4 << 10;

/// Writes the changes in `upper` as the tar of a layer to the directory `tree`. Does not sync the
/// tar. Returns its SHA-256 digest.
pub(crate) fn pack(upper: &OwnedFd, tree: &OwnedFd) -> Result<Digest> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    let created = calls::openat(tree, LAYER_TAR, flags, Mode::RUSR | Mode::WUSR);
    let file = File::from(
        created
            .map_err(io::Error::from)
            .during("create", LAYER_TAR)?,
    );
    let tar = WithHoles {
        file,
        length: 0,
        hasher: Hasher::new(Algorithm::Sha256),
    };
    let mut tar = BufWriter::with_capacity(BUFFER, tar);
    for warning in changes::write(upper, &mut tar)?.warnings {
        tracing::warn!("{warning}");
    }
    let tar = tar.into_inner().map_err(io::IntoInnerError::into_error);
    let finished = tar.and_then(|tar| {
        tar.file.set_len(tar.length)?;
        Ok(tar.hasher.finish())
    });
    finished.during("write", LAYER_TAR)
}

/// A file that stores long runs of zeros as holes. The tar contains the holes of a sparse file as
/// zeros.
struct WithHoles {
    file: File,
    length: u64,
    hasher: Hasher,
}

impl Write for WithHoles {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        for piece in bytes.chunks(HOLE) {
            if piece.iter().any(|&byte| byte != 0) {
                self.file.write_all_at(piece, self.length)?;
            }
            self.length += piece.len() as u64;
        }
        self.hasher.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
