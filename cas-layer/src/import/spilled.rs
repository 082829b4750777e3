//! The bytes of the files that an import keeps together in an ingest.

use std::sync::Arc;

use bytes::Bytes;
use cas_core::content::Ingest;
use cas_core::{Error, Result};
use tokio::sync::Mutex;

/// The bytes of all files, one file after the other.
#[derive(Clone)]
pub(super) struct Spilled(Arc<Mutex<Box<dyn Ingest>>>);

impl Spilled {
    /// Returns the bytes in `ingest`.
    pub(super) fn new(ingest: Box<dyn Ingest>) -> Self {
        Spilled(Arc::new(Mutex::new(ingest)))
    }

    /// Adds bytes.
    ///
    /// # Errors
    /// Errors of the store.
    pub(super) async fn append(&self, data: Bytes) -> Result<()> {
        self.0.lock().await.append(data).await
    }

    /// Returns up to `length` bytes from `offset`, and at least one if there is one.
    ///
    /// # Errors
    /// Errors of the store.
    pub(super) async fn read(&self, offset: u64, length: usize) -> Result<Bytes> {
        let piece = self.0.lock().await.read_back(offset, length).await?;
        match piece.is_empty() && length > 0 {
            true => Err(Error::corrupt(
                "the ingest with the small files of the archive ends too early; import again",
            )),
            false => Ok(piece),
        }
    }
}
