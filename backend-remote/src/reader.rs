//! Reading a blob: a range of it is ranges of its parts, several at once.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use cas_core::{BlobReader, Digest, Result};

use crate::runtime;
use crate::store::Remote;
use crate::upload::Pointer;

/// A blob as its cell was when it was opened.
pub(crate) struct RemoteReader {
    pub(crate) remote: Arc<Remote>,
    pub(crate) digest: Digest,
    pub(crate) pointer: Pointer,
}

#[async_trait]
impl BlobReader for RemoteReader {
    fn size(&self) -> u64 {
        self.pointer.size
    }

    async fn read_at(&self, offset: u64, length: usize) -> Result<Bytes> {
        let (remote, pointer, digest) = (self.remote.clone(), self.pointer, self.digest);
        runtime::run(async move {
            let data = remote.read(&pointer, offset, length as u64).await;
            data.map_err(|error| error.within(digest))
        })
        .await
    }
}
