//! A store as a program holds it: bytes, the one home of their records, and names.

use std::sync::Arc;

use crate::content::{ContentStore, Expected, Stat, Writer};
use crate::descriptor::Descriptor;
use crate::error::{Error, Result};
use crate::image::ImageStore;
use crate::records::{Blobs, Leases, Records};

/// Bytes, records and names that belong together.
#[derive(Clone)]
pub struct Store {
    /// The bytes.
    pub content: Arc<dyn ContentStore>,
    /// The one home of records.
    pub records: Arc<dyn Records>,
    /// The names.
    pub images: Arc<dyn ImageStore>,
}

impl Store {
    /// The records of its blobs.
    pub fn blobs(&self) -> Blobs {
        Blobs::new(Arc::clone(&self.records))
    }

    /// Whether the content of `descriptor` is there.
    ///
    /// # Errors
    /// `Corrupt` when it is there in another size.
    pub async fn present(&self, descriptor: &Descriptor) -> Result<bool> {
        match self.content.stat(&descriptor.digest).await? {
            None => Ok(false),
            Some(Stat { size, .. }) if size == descriptor.size => Ok(true),
            Some(Stat { size, .. }) => Err(Error::corrupt(format!(
                "expected {} bytes, the store has {size}; remove the blob and import it again",
                descriptor.size
            ))
            .operation("stat")
            .subject(descriptor.digest)),
        }
    }

    /// Begins or resumes the ingest of a blob under its digest as key.
    ///
    /// # Errors
    /// `Busy` while another writer holds it.
    pub async fn writer(&self, descriptor: &Descriptor) -> Result<Writer> {
        let expected = Expected::exactly(descriptor.digest, descriptor.size);
        Writer::begin(&*self.content, &descriptor.digest.to_string(), expected).await
    }

    /// The leases.
    pub fn leases(&self) -> Leases {
        Leases::new(Arc::clone(&self.records))
    }
}
