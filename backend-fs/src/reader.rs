//! Reading blobs.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use cas_core::layout::blob_path;
use cas_core::{BlobReader, Digest, Hasher, Result, pool};

/// Maximum number of bytes that are read or written on the calling thread. For so few, another
/// thread would cost more than it saves.
pub(crate) const INLINE: usize = 64 << 10;
/// Size in bytes of each read by which a file is hashed.
const PIECE: usize = 1 << 20;

/// An open blob. It stays readable after the blob is removed.
pub(crate) struct Reader {
    pub(crate) file: Arc<File>,
    pub(crate) size: u64,
    /// The path of the layout.
    pub(crate) layout: Arc<Path>,
    pub(crate) digest: Digest,
}

#[async_trait]
impl BlobReader for Reader {
    fn size(&self) -> u64 {
        self.size
    }

    async fn read_at(&self, offset: u64, length: usize) -> Result<Bytes> {
        let left = self.size.saturating_sub(offset);
        let length = usize::try_from(left).map_or(length, |left| left.min(length));
        if length <= INLINE {
            return read(&self.file, offset, length);
        }
        let file = Arc::clone(&self.file);
        pool::run(move || read(&file, offset, length)).await
    }

    fn file(&self) -> Option<&Arc<File>> {
        Some(&self.file)
    }

    fn path(&self) -> Option<PathBuf> {
        Some(self.layout.join(blob_path(&self.digest)))
    }
}

/// Returns `length` bytes from `offset`, or fewer at the end of the file.
pub(crate) fn read(file: &File, offset: u64, length: usize) -> Result<Bytes> {
    let mut data = vec![0; length];
    let mut filled = 0;
    while filled < length {
        match file.read_at(&mut data[filled..], offset + filled as u64) {
            Ok(0) => break,
            Ok(more) => filled += more,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error.into()),
        }
    }
    data.truncate(filled);
    Ok(data.into())
}

/// Returns whether the bytes of `file` have the digest `digest`.
pub(crate) fn hashes_to(file: &File, digest: &Digest) -> Result<bool> {
    let mut hasher = Hasher::new(digest.algorithm());
    let mut at = 0;
    loop {
        let piece = read(file, at, PIECE)?;
        if piece.is_empty() {
            return Ok(hasher.finish() == *digest);
        }
        at += piece.len() as u64;
        hasher.update(&piece);
    }
}
