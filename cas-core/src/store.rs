//! [`Store`]: the content, the records and the image names of one store.

use std::sync::Arc;

use crate::content::{ContentStore, Expected, Stat, Writer};
use crate::descriptor::Descriptor;
use crate::error::{Error, ErrorKind, REPAIR_BYTES, Result};
use crate::image::ImageStore;
use crate::owner::Owner;
use crate::records::{Blobs, Leases, Records};

/// The content, records and image names that belong together.
#[derive(Clone)]
pub struct Store {
    /// The bytes of blobs.
    pub content: Arc<dyn ContentStore>,
    /// The records of blobs, images and leases, and the notes, which are small values such as the
    /// time when an image was last used.
    pub records: Arc<dyn Records>,
    /// The names of images.
    pub images: Arc<dyn ImageStore>,
}

impl Store {
    /// Returns the owner that the store is opened for, or `None` if it is not opened for an owner.
    pub fn owner(&self) -> Option<&Owner> {
        self.images.owner()
    }

    /// Returns the store, opened for `owner`. The returned store lists only the image names of
    /// `owner`. Each blob that is stored or pinned through the returned store gets a claim: an
    /// entry that keeps the blob for `owner` (see [`owner`](crate::owner)). All owners share the
    /// content.
    ///
    /// # Errors
    /// `Denied` if the store is opened for another owner; `Unsupported` if its image store does not
    /// keep owners.
    pub fn for_owner(&self, owner: &Owner) -> Result<Store> {
        match self.owner() {
            None => Ok(Store {
                images: self.images.for_owner(owner)?,
                ..self.clone()
            }),
            Some(own) if own == owner => Ok(self.clone()),
            Some(own) => Err(Error::new(
                ErrorKind::Denied,
                format!("the store is opened for the owner {own}; open it for {owner} instead"),
            )),
        }
    }

    /// Returns the records of the store's blobs.
    pub fn blobs(&self) -> Blobs {
        Blobs::new(Arc::clone(&self.records))
    }

    /// Returns whether the content of `descriptor` is in the store.
    ///
    /// # Errors
    /// `Corrupt` if the stored content has another size than `descriptor`; errors of the store.
    pub async fn present(&self, descriptor: &Descriptor) -> Result<bool> {
        match self.content.stat(&descriptor.digest).await? {
            None => Ok(false),
            Some(Stat { size, .. }) if size == descriptor.size => Ok(true),
            Some(Stat { size, .. }) => Err(Error::corrupt(format!(
                "the stored blob is damaged: expected {} bytes, found {size}",
                descriptor.size
            ))
            .advice(REPAIR_BYTES)
            .operation("stat")
            .subject(descriptor.digest)),
        }
    }

    /// Begins or resumes the ingest of a blob. The key of the ingest is the digest of the blob.
    /// Returns the writer of the ingest.
    ///
    /// # Errors
    /// `Busy` while another writer has the ingest open; other errors of [`Writer::begin`].
    pub async fn writer(&self, descriptor: &Descriptor) -> Result<Writer> {
        let expected = Expected::exactly(descriptor.digest, descriptor.size);
        Writer::begin(&*self.content, &descriptor.digest.to_string(), expected).await
    }

    /// Returns the leases of the store.
    pub fn leases(&self) -> Leases {
        Leases::new(Arc::clone(&self.records))
    }
}
