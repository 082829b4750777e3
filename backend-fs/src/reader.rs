//! Reading blobs.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use cas_core::layout::blob_path;
use cas_core::{BlobReader, Digest, Result, pool};
use cas_host::{Pace, digest_of, fill};

/// Maximum number of bytes that are read or written on the calling thread. For so few, another
/// thread would cost more than it saves.
pub(crate) const INLINE: usize = 64 << 10;

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
    let filled = fill(file, &mut data, offset)?;
    data.truncate(filled);
    Ok(data.into())
}

/// Returns whether the bytes of `file` have the digest `digest`.
pub(crate) fn hashes_to(file: &File, digest: &Digest) -> Result<bool> {
    let found = digest_of(file, digest.algorithm(), &mut Pace::new(None))?;
    Ok(found == *digest)
}
