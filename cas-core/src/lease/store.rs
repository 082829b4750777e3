//! The three verbs that store a blob without a lease: it is kept for
//! [`UNLEASED_TTL`](crate::records::UNLEASED_TTL).

use bytes::Bytes;

use super::pin::{self, BlobRef};
use super::publish;
use crate::content::{Committed, Durability, Writer};
use crate::descriptor::Descriptor;
use crate::digest::Digest;
use crate::document::Document;
use crate::error::Result;
use crate::store::Store;

impl Store {
    /// Publishes what `writer` holds together with its record, kept for a day without a lease; see
    /// [`LeaseGuard::publish`](crate::lease::LeaseGuard::publish) for one under a lease. The record of a
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
        let blob = BlobRef::of(descriptor, children);
        publish::publish(self, None, writer, &blob, durability).await
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
        let blob = BlobRef::of(descriptor, listed(descriptor, &data)?);
        publish::put(self, None, &blob, data, durability).await
    }

    /// Writes down the type and the children of a blob that is there, and keeps it for a day.
    ///
    /// # Errors
    /// Those of the home.
    pub async fn describe(&self, descriptor: &Descriptor, children: Vec<Digest>) -> Result<()> {
        let blob = BlobRef::of(descriptor, children);
        pin::pin(self, None, &blob).await.map(|_| ())
    }
}

/// What a document lists; nothing for another type.
pub(super) fn listed(descriptor: &Descriptor, data: &[u8]) -> Result<Vec<Digest>> {
    let media_type = &descriptor.media_type;
    if !media_type.is_document() {
        return Ok(Vec::new());
    }
    let document = Document::parse(media_type, data)
        .map_err(|error| error.operation("store").subject(descriptor.digest))?;
    Ok(document.children().map(|child| child.digest).collect())
}
