//! Storing small blobs.

use bytes::Bytes;
use cas_core::content::{Durability, Expected, OwnIngest, Writer};
use cas_core::lease::{BlobRef, LeaseGuard};
use cas_core::{Descriptor, Digest, Result, Store};

/// Stores a small blob and its record under a lease, unless an intact copy is there. Other jobs may
/// store the same blob meanwhile, because each uses an ingest of its own.
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
        return Ok(());
    }
    // Declared before the writer, so that the ingest can be discarded.
    let ingest = OwnIngest::new(&store.content, "aci");
    let expected = Expected::exactly(descriptor.digest, descriptor.size);
    let mut writer = Writer::begin(&*store.content, ingest.key(), expected).await?;
    writer.write(data).await?;
    guard.publish(writer, &blob, Durability::Full).await?;
    ingest.published();
    Ok(())
}
