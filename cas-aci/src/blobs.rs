//! Stores blobs. An intact copy that the store already has is kept, and a damaged copy is replaced.

use bytes::Bytes;
use cas_core::content::{Durability, Expected, OwnIngest, Writer};
use cas_core::lease::{BlobRef, LeaseGuard};
use cas_core::{Descriptor, Digest, MediaType, Result, Store};

/// Stores a small blob and its record under a lease, unless the store has an intact copy. Other
/// jobs may store the same blob meanwhile, because each job uses an ingest of its own.
///
/// # Errors
/// Errors of the store.
pub(crate) async fn store_small_blob(
    store: &Store,
    guard: &LeaseGuard,
    descriptor: &Descriptor,
    children: Vec<Digest>,
    data: Bytes,
) -> Result<()> {
    let blob = BlobRef::of(descriptor, children);
    if guard.pin_intact(blob.clone()).await? {
        // Another job may have published the blob without a sync.
        return store.content.flush().await;
    }
    // Declared before the writer, so that it is dropped after the writer. An ingest can only be
    // discarded when no writer has it open.
    let ingest = OwnIngest::new(&store.content, "aci");
    let expected = Expected::exactly(descriptor.digest, descriptor.size);
    let mut writer = Writer::begin(&*store.content, ingest.key(), expected).await?;
    writer.write(data).await?;
    guard.publish(writer, &blob, Durability::Full).await?;
    ingest.published();
    Ok(())
}

/// Publishes the blob that was written to `ingest`, with its record, under a lease. If the store
/// has an intact copy of the blob, discards the ingest. Returns the descriptor of the blob.
///
/// # Errors
/// Errors of the store.
pub(crate) async fn publish(
    store: &Store,
    guard: &LeaseGuard,
    media_type: MediaType,
    ingest: OwnIngest,
    mut writer: Writer,
) -> Result<Descriptor> {
    let digest = writer.digest().await?;
    let descriptor = Descriptor::new(media_type, digest, writer.offset());
    let blob = BlobRef::of(&descriptor, Vec::new());
    if guard.pin_intact(blob.clone()).await? {
        drop(writer);
        ingest.discard().await?;
        store.content.flush().await?;
        return Ok(descriptor);
    }
    guard.publish(writer, &blob, Durability::Full).await?;
    ingest.published();
    Ok(descriptor)
}
