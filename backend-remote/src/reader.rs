//! Reads a range of a blob. Several parts of the blob are read concurrently.

use async_trait::async_trait;
use bytes::Bytes;
use cas_core::{BlobReader, Digest, Result};

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
            let data = blobs.read(&pointer, offset, length as u64).await;
            data.map_err(|error| error.within(digest))
        })
        .await
    }
}
