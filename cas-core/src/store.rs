//! A store as a program holds it: bytes, the one home of their records, and names.

use std::sync::Arc;

use bytes::Bytes;

use crate::collect::Wanted;
use crate::collect::hold;
use crate::content::{Committed, ContentStore, Durability, Expected, Stat, Writer};
use crate::descriptor::Descriptor;
use crate::digest::Digest;
use crate::document::Document;
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

    /// Publishes what `writer` holds together with its record, kept for a day without a lease; see
    /// [`Guard::publish`](crate::collect::Guard::publish) for one under a lease. The record of a
    /// blob that is there already keeps what it has, and learns its type and children.
    ///
    /// # Errors
    /// Those of [`Writer::commit`], `Corrupt` when the bytes are not what `descriptor` says
    /// whatever the writer was begun with; `Conflict` when the blob was collected meanwhile; those
    /// of the home.
    pub async fn publish(
        &self,
        mut writer: Writer,
        descriptor: &Descriptor,
        children: Vec<Digest>,
        durability: Durability,
    ) -> Result<Committed> {
        writer.expect(descriptor.digest, descriptor.size);
        let wanted = Wanted::described(descriptor, children);
        hold::publish(self, None, writer, &wanted, durability).await
    }

    /// Stores a small blob with its record, edges included where it is a document.
    ///
    /// # Errors
    /// As [`Store::publish`]; `Corrupt` when `data` is not what `descriptor` says.
    pub async fn put(
        &self,
        descriptor: &Descriptor,
        data: Bytes,
        durability: Durability,
    ) -> Result<()> {
        let wanted = Wanted::described(descriptor, listed(descriptor, &data)?);
        hold::put(self, None, &wanted, data, durability).await
    }

    /// Writes down the type and the children of a blob that is there, and keeps it for a day.
    ///
    /// # Errors
    /// Those of the home.
    pub async fn describe(&self, descriptor: &Descriptor, children: Vec<Digest>) -> Result<()> {
        let wanted = Wanted::described(descriptor, children);
        hold::hold(self, None, &wanted).await.map(|_| ())
    }
}

/// What a document lists; nothing for another type.
pub(crate) fn listed(descriptor: &Descriptor, data: &[u8]) -> Result<Vec<Digest>> {
    let media_type = &descriptor.media_type;
    if !media_type.is_index() && !media_type.is_manifest() {
        return Ok(Vec::new());
    }
    let document = Document::parse(media_type, data)
        .map_err(|error| error.operation("store").subject(descriptor.digest))?;
    Ok(document.children().map(|child| child.digest).collect())
}
