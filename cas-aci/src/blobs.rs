//! Storing blobs: an intact copy stays, and a damaged one is replaced.

use std::sync::{Arc, Weak};

use bytes::Bytes;
use cas_core::content::{Durability, Expected, OwnIngest, Writer};
use cas_core::lease::{BlobRef, LeaseGuard};
use cas_core::{Descriptor, Digest, MediaType, Result, Store, pool};
use tokio::runtime::Handle;

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

/// Calls `write` with the writer of a new ingest, on a thread of its own, so that `write` may
/// block. Returns the ingest and the result of `write`. The second argument of `write` can be
/// upgraded until the caller drops the future. Afterwards, `write` should stop.
///
/// # Errors
/// Errors of `write` and of the store. The ingest is then discarded.
pub(crate) async fn write_apart<T: Send + 'static>(
    store: &Store,
    owner: &str,
    write: impl FnOnce(Writer, Weak<()>) -> Result<T> + Send + 'static,
) -> Result<(OwnIngest, T)> {
    // Dropped after the writer, as in `store_small_blob`.
    let ingest = OwnIngest::new(&store.content, owner);
    let writer = Writer::begin(&*store.content, ingest.key(), Expected::ANY).await?;
    let waiter = Arc::new(());
    let watch = Arc::downgrade(&waiter);
    let runtime = Handle::try_current().ok();
    let written = pool::apart("cas-aci", move || {
        let _entered = runtime.as_ref().map(Handle::enter);
        write(writer, watch)
    });
    Ok((ingest, written.await?))
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
