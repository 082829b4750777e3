//! Reads a range of a blob. Several parts of the blob are read concurrently.

use async_trait::async_trait;
use bytes::Bytes;
use cas_core::error::REPAIR_BYTES;
use cas_core::{BlobReader, Digest, Error, ErrorKind, Result};

use crate::blob::{Blobs, Pointer};
use crate::runtime;

/// An open blob, with the pointer that its cell had when the blob was opened.
pub(crate) struct RemoteReader {
    pub(crate) blobs: Blobs,
    pub(crate) digest: Digest,
    pub(crate) pointer: Pointer,
}

#[async_trait]
impl BlobReader for RemoteReader {
    fn size(&self) -> u64 {
        self.pointer.size
    }

    async fn read_at(&self, offset: u64, length: usize) -> Result<Bytes> {
        let (blobs, pointer, digest) = (self.blobs.clone(), self.pointer, self.digest);
        runtime::run(async move {
            let error = match blobs.read(&pointer, offset, length as u64).await {
                Ok(data) => return Ok(data),
                Err(error) => error,
            };
            // The cell of a blob is removed before its parts.
            let is_lost = error.kind() == ErrorKind::NotFound
                && blobs.has_version(&digest, pointer.version).await?;
            let error = match is_lost {
                true => part_lost(error),
                false => error,
            };
            Err(error.within(digest))
        })
        .await
    }
}

/// Returns the error for a blob whose cell still points to a part that is missing. `error` is the
/// error of reading this part.
fn part_lost(error: Error) -> Error {
    Error::corrupt("the stored blob is damaged: one of its parts is missing")
        .advice(REPAIR_BYTES)
        .operation("read")
        .source(error)
}
