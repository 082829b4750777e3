//! Reads one blob by position.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use cas_core::{BlobReader, Result, pool};

/// Up to this many bytes a hop to another thread costs more than to read or to write them.
pub(crate) const INLINE: usize = 64 << 10;

/// An open blob; it can be read on after the blob was removed.
pub(crate) struct Reader {
    pub(crate) file: Arc<File>,
    pub(crate) size: u64,
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
}

/// Reads `length` bytes, or fewer where the file ends.
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
