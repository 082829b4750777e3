//! The methods that store a blob without a lease. The blob is kept for
//! [`UNLEASED_TTL`](crate::records::UNLEASED_TTL).

use bytes::Bytes;

use super::intact::remove_damaged;
use super::pin::{self, BlobRef};
use super::publish;
use crate::content::{Committed, Durability, Writer};
use crate::descriptor::Descriptor;
use crate::digest::Digest;
use crate::document::Document;
use crate::error::Result;
use crate::store::Store;

impl Store {
    /// Publishes what `writer` has written, together with the record of the blob. The bytes are
    /// checked against `descriptor`, not against the digest and the size that `writer` was created
    /// with. If the blob already has a record that lacks the media type or the children, they are
    /// added to the record. A damaged copy of the blob in the store is replaced. Returns what was
    /// committed.
    ///
    /// Garbage collections keep the blob for at least a day. To keep it for as long as a job runs,
    /// call [`LeaseGuard::publish`](crate::lease::LeaseGuard::publish) instead.
    ///
    /// # Errors
    /// `Corrupt` if the bytes do not match `descriptor`, or if the record of the blob does not
    /// parse; `Conflict` if the blob was collected meanwhile, or if every attempt lost against
    /// another writer; other errors of [`Writer::commit`]; errors of the store.
    pub async fn publish(
        &self,
        mut writer: Writer,
        descriptor: &Descriptor,
        children: Vec<Digest>,
        durability: Durability,
    ) -> Result<Committed> {
        writer.expect(descriptor.digest, descriptor.size);
        let blob = BlobRef::of(descriptor, children);
        let verified = writer.verify().await?;
        remove_damaged(self, verified.digest(), verified.size()).await?;
        publish::publish(self, None, writer, &blob, durability).await
    }

    /// Stores a small blob and its record. If the blob is a document (an index or a manifest), its
    /// children are recorded. Garbage collections keep the blob for at least a day.
    ///
    /// # Errors
    /// As [`Store::publish`]; `Corrupt` if `data` does not match `descriptor`, or is a document
    /// that does not parse; `Busy` if another writer still writes the blob after a wait of ten
    /// minutes.
    pub async fn put(
        &self,
        descriptor: &Descriptor,
        data: Bytes,
        durability: Durability,
    ) -> Result<()> {
        let blob = BlobRef::of(descriptor, listed(descriptor, &data)?);
        publish::put(self, None, &blob, data, durability).await
    }

    /// Records the media type and the children of a blob that is in the store. If the record of the
    /// blob already has a media type, it stays. If the record lists children, `children` replaces
    /// them, unless it is empty. Does not check that the store has the blob. Garbage collections
    /// keep the blob for at least a day.
    ///
    /// # Errors
    /// `Corrupt` if the record of the blob does not parse; `Conflict` if every attempt lost against
    /// another writer; errors of the store.
    pub async fn describe(&self, descriptor: &Descriptor, children: Vec<Digest>) -> Result<()> {
        self.record(&BlobRef::of(descriptor, children)).await
    }

    /// Records what `blob` states about a blob that is in the store, as [`Store::describe`] does.
    /// Garbage collections keep the blob for at least a day.
    ///
    /// # Errors
    /// As [`Store::describe`].
    pub(crate) async fn record(&self, blob: &BlobRef) -> Result<()> {
        pin::pin(self, None, blob).await.map(|_| ())
    }
}

/// Returns the children of a document, or none for another type.
pub(super) fn listed(descriptor: &Descriptor, data: &[u8]) -> Result<Vec<Digest>> {
    let media_type = &descriptor.media_type;
    if !media_type.is_document() {
        return Ok(Vec::new());
    }
    let document = Document::parse(media_type, data)
        .map_err(|error| error.operation("store").subject(descriptor.digest))?;
    Ok(document.children().map(|child| child.digest).collect())
}
