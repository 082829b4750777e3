//! Ingests. Each full part is written to the store. The remaining bytes stay in memory until the
//! publish.
//!
//! When the writer of an ingest is dropped, the ingest keeps its parts and the remaining bytes, so
//! this process can resume the ingest. An ingest that has parts and has sent nothing for 12 hours
//! cannot be resumed. It starts again at offset 0, because a collection may have removed its parts.

mod open;
mod upload;

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use cas_core::content::{Durability, Verified};
use cas_core::records::Batch;
use cas_core::{Digest, Error, Ingest, Result};

use crate::blob::Blobs;
use crate::runtime;

pub(crate) use open::OpenIngests;
use upload::Upload;

/// The writer of an ingest.
pub(crate) struct RemoteIngest {
    blobs: Blobs,
    ingests: Arc<OpenIngests>,
    key: String,
    /// `None` after a failure, and after a publish.
    upload: Option<Upload>,
}

impl RemoteIngest {
    /// Begins the ingest, or resumes it.
    ///
    /// # Errors
    /// `Busy` while another writer has the ingest open; `Unavailable` if the system provides no
    /// random numbers.
    pub(crate) fn begin(blobs: Blobs, ingests: Arc<OpenIngests>, key: &str) -> Result<Self> {
        let upload = Some(ingests.acquire(key)?);
        Ok(RemoteIngest {
            blobs,
            ingests,
            key: key.to_owned(),
            upload,
        })
    }

    /// Removes an ingest and its parts. Returns false if there is none.
    ///
    /// # Errors
    /// `Busy` while a writer has the ingest open; errors of the service. After an error of the
    /// service, the ingest is gone, but some of its parts may stay until a collection.
    pub(crate) async fn discard(blobs: Blobs, ingests: &OpenIngests, key: &str) -> Result<bool> {
        let Some(upload) = ingests.remove(key)? else {
            return Ok(false);
        };
        runtime::run(async move { upload.discard(&blobs).await.map(|()| true) }).await
    }

    fn upload(&mut self) -> Result<&mut Upload> {
        self.upload.as_mut().ok_or_else(|| {
            Error::precondition("an earlier write failed; start the ingest again")
                .subject(&self.key)
        })
    }

    /// Drops the upload and deletes its parts, because it is unknown which bytes arrived. Returns
    /// the error.
    async fn poison<T>(&mut self, error: Error) -> Result<T> {
        if let Some(upload) = self.upload.take() {
            discard_quietly(upload, self.blobs.clone()).await;
        }
        Err(error)
    }

    async fn publish_upload(&mut self, digest: Digest, size: u64) -> Result<()> {
        let blobs = self.blobs.clone();
        let outcome = self.upload()?.publish(&blobs, &digest, size).await;
        match (outcome, self.upload.take()) {
            // The store had the blob already.
            (Ok(false), Some(upload)) => {
                discard_quietly(upload, blobs).await;
                Ok(())
            }
            (Ok(_), _) => Ok(()),
            (Err(error), upload) => {
                self.upload = upload;
                self.poison(error.operation("publish").subject(digest))
                    .await
            }
        }
    }
}

/// Deletes the parts of an upload that is no longer needed. Parts that cannot be deleted only take
/// space, until a collection removes them.
async fn discard_quietly(upload: Upload, blobs: Blobs) {
    let _ = runtime::run(async move { upload.discard(&blobs).await }).await;
}

#[async_trait]
impl Ingest for RemoteIngest {
    fn key(&self) -> &str {
        &self.key
    }

    fn offset(&self) -> u64 {
        self.upload.as_ref().map_or(0, Upload::offset)
    }

    async fn append(&mut self, data: Bytes) -> Result<()> {
        let blobs = self.blobs.clone();
        let upload = self.upload()?;
        let appended = upload.append(&blobs, &data).await;
        if let Some(upload) = &self.upload {
            self.ingests.note(&self.key, upload);
        }
        match appended {
            Ok(()) => Ok(()),
            Err(error) => self.poison(error).await,
        }
    }

    async fn read_back(&mut self, offset: u64, length: usize) -> Result<Bytes> {
        let blobs = self.blobs.clone();
        let upload = self.upload()?;
        if offset >= upload.sent() {
            return Ok(upload.read_buffer(offset, length));
        }
        match upload.sent_parts().await {
            Ok(parts) => {
                runtime::run(async move { blobs.read(&parts, offset, length as u64).await }).await
            }
            Err(error) => self.poison(error).await,
        }
    }

    async fn rewind(&mut self) -> Result<()> {
        let fresh = Upload::new()?;
        self.ingests.note(&self.key, &fresh);
        let blobs = self.blobs.clone();
        if let Some(old) = self.upload.replace(fresh) {
            discard_quietly(old, blobs).await;
        }
        Ok(())
    }

    /// Returns false and leaves the batch to the caller: no service changes two objects atomically.
    async fn publish(
        mut self: Box<Self>,
        verified: &Verified,
        _: &Batch,
        _: Durability,
    ) -> Result<bool> {
        verified.check(&self.key, self.offset())?;
        let (digest, size) = (*verified.digest(), verified.size());
        runtime::run(async move { self.publish_upload(digest, size).await.map(|()| false) }).await
    }
}

impl Drop for RemoteIngest {
    fn drop(&mut self) {
        self.ingests.release(&self.key, self.upload.take());
    }
}
