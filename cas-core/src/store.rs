//! A store as a program uses it: the bytes of blobs, their records, and names.

use std::sync::Arc;

use crate::content::{ContentStore, Expected, Stat, Writer};
use crate::descriptor::Descriptor;
use crate::error::{Error, Result};
use crate::image::ImageStore;
use crate::records::{Blobs, Leases, Records};

/// The content, records and image names that belong together.
#[derive(Clone)]
pub struct Store {
    /// The bytes of blobs.
    pub content: Arc<dyn ContentStore>,
    /// The records of blobs, images, leases and snapshots.
    pub records: Arc<dyn Records>,
    /// The names of images.
    pub images: Arc<dyn ImageStore>,
}

impl Store {
    /// Returns the records of its blobs.
    pub fn blobs(&self) -> Blobs {
        Blobs::new(Arc::clone(&self.records))
    }

    /// Returns whether the content of `descriptor` is in the store.
    ///
    /// # Errors
    /// `Corrupt` if it is stored with another size.
    pub async fn present(&self, descriptor: &Descriptor) -> Result<bool> {
        match self.content.stat(&descriptor.digest).await? {
            None => Ok(false),
            Some(Stat { size, .. }) if size == descriptor.size => Ok(true),
            Some(Stat { size, .. }) => Err(Error::corrupt(format!(
                "the stored blob is damaged: expected {} bytes, found {size}; delete the images \
                 that use it, collect garbage and import them again",
                descriptor.size
            ))
            .operation("stat")
            .subject(descriptor.digest)),
        }
    }

    /// Begins the ingest of a blob, with its digest as the key, or resumes it.
    ///
    /// # Errors
    /// `Busy` while another writer has it open.
    pub async fn writer(&self, descriptor: &Descriptor) -> Result<Writer> {
        let expected = Expected::exactly(descriptor.digest, descriptor.size);
        Writer::begin(&*self.content, &descriptor.digest.to_string(), expected).await
    }

    /// Returns the leases of the store.
    pub fn leases(&self) -> Leases {
        Leases::new(Arc::clone(&self.records))
    }
}
