//! Publishing a blob together with its record, pinned under a lease.

use bytes::Bytes;

use super::intact::is_intact;
use super::pin::{BlobRef, Plan, pin, plan};
use super::revive::reap;
use super::swap::lost;
use crate::content::{
    Backoff, Committed, ContentExt, Durability, Expected, WRITER_TIMEOUT, Writer,
};
use crate::digest::Digest;
use crate::error::{Error, ErrorKind, Result};
use crate::records::{ATTEMPTS, Batch, BlobRecord, Blobs, Expect};
use crate::store::Store;

/// Publishes what `writer` has written, together with the record of the blob, pinned under `lease`.
pub(crate) async fn publish(
    store: &Store,
    lease: Option<&str>,
    writer: Writer,
    blob: &BlobRef,
    durability: Durability,
) -> Result<Committed> {
    if store.content.commits_records(writer.offset()) {
        publish_jointly(store, lease, writer, blob, durability).await
    } else {
        publish_apart(store, lease, writer, blob, durability).await
    }
}

/// Publishes a blob and its record in one step.
async fn publish_jointly(
    store: &Store,
    lease: Option<&str>,
    mut writer: Writer,
    blob: &BlobRef,
    durability: Durability,
) -> Result<Committed> {
    let key = writer.key().to_owned();
    let size = writer.offset();
    let digest = &blob.digest;
    for _ in 0..ATTEMPTS {
        let mut batch = Batch::new();
        let (mut record, expect) = match plan(store, lease, blob).await? {
            Plan::Nothing => return Err(without_size()),
            Plan::Swap(record, expect) => (record, expect),
            Plan::Revive(record, tombstone, revision) => {
                // The tombstoned bytes are removed first, so that the bytes of this writer are
                // stored as a new version.
                reap(store, digest, tombstone).await?;
                (record, Expect::Revision(revision))
            }
        };
        // The record may be wrong (see `correct_size`).
        record.size = size;
        Blobs::put(&mut batch, digest, &record, expect)?;
        match writer.commit(&batch, durability).await {
            Ok(committed) if committed.batch => return Ok(committed),
            // Another member of a composition had the bytes already, so the batch was not
            // committed.
            Ok(committed) => {
                pin(store, lease, blob).await?;
                return check_stored(store, &blob.digest).await.map(|()| committed);
            }
            Err(error) if error.kind() == ErrorKind::Conflict => {
                // Nothing was stored, and the ingest still has its bytes.
                let expected = Expected::exactly(*digest, size);
                let begun = store.content.begin_or_wait(&key, expected, WRITER_TIMEOUT);
                writer = begun.await?;
                if writer.offset() != size {
                    // Another writer with the same key may have published the bytes.
                    return published(store, lease, blob, size, durability).await;
                }
            }
            Err(error) => return Err(error),
        }
    }
    Err(lost(digest))
}

/// Writes the record of a blob, and then publishes the blob. In the other order, a kill in between
/// would leave bytes without a record, and no collection removes such bytes.
async fn publish_apart(
    store: &Store,
    lease: Option<&str>,
    writer: Writer,
    blob: &BlobRef,
    durability: Durability,
) -> Result<Committed> {
    let pinned = pin(store, lease, blob).await?;
    pinned.ok_or_else(without_size)?;
    let committed = writer.commit(&Batch::new(), durability).await?;
    let found = store.blobs().load(&blob.digest).await?;
    match found.filter(|(record, _)| record.tombstone.is_none()) {
        Some((record, _)) if record.size == committed.size => {}
        Some(_) => correct_size(store, &committed).await?,
        // The lease had expired, and a collection has dropped the record.
        None => pin(store, lease, blob).await.map(drop)?,
    }
    check_stored(store, &blob.digest).await.map(|()| committed)
}

/// Corrects the size in the record of a blob that was just published. A repair may have made this
/// record while the store had other bytes, which were damaged.
async fn correct_size(store: &Store, committed: &Committed) -> Result<()> {
    let correct = |found: Option<BlobRecord>| {
        let mut record = found.ok_or_else(|| lost(&committed.digest))?;
        record.size = committed.size;
        Ok(record)
    };
    let corrected = store.blobs().update(&committed.digest, correct).await;
    corrected.map(drop)
}

/// Checks that nothing has removed the blob since it was published.
async fn check_stored(store: &Store, digest: &Digest) -> Result<()> {
    match store.content.stat(digest).await? {
        Some(_) => Ok(()),
        None => Err(lost(digest)),
    }
}

fn without_size() -> Error {
    Error::internal("a blob is published without a size; please report it")
}

/// Pins the blob that another writer may have published. Fails with `Conflict` if the store has no
/// blob of this digest and size.
async fn published(
    store: &Store,
    lease: Option<&str>,
    blob: &BlobRef,
    size: u64,
    durability: Durability,
) -> Result<Committed> {
    let pinned = pin(store, lease, blob).await?;
    let stat = pinned.and_then(|pinned| pinned.stat);
    if stat.is_none_or(|stat| stat.size != size) {
        return Err(lost(&blob.digest));
    }
    if durability != Durability::Relaxed {
        store.content.flush().await?;
    }
    Ok(Committed {
        digest: blob.digest,
        size,
        batch: true,
    })
}

/// Stores a small blob, pinned under `lease`. A blob that is stored already and intact is not
/// written again. If another writer is storing it, waits for that writer, and fails with `Busy`
/// after [`WRITER_TIMEOUT`]. If `data` does not match `blob`, nothing is recorded.
pub(crate) async fn put(
    store: &Store,
    lease: Option<&str>,
    blob: &BlobRef,
    data: Bytes,
    durability: Durability,
) -> Result<()> {
    let mut backoff = Backoff::new(WRITER_TIMEOUT);
    loop {
        match try_put(store, lease, blob, data.clone(), durability).await {
            Err(error) if error.kind() == ErrorKind::Busy && backoff.wait().await => {}
            outcome => return outcome,
        }
    }
}

/// Does what [`put`] does, but fails with `Busy` at once if another writer is storing the blob.
async fn try_put(
    store: &Store,
    lease: Option<&str>,
    blob: &BlobRef,
    data: Bytes,
    durability: Durability,
) -> Result<()> {
    let size = data.len() as u64;
    let expected = Expected::exactly(blob.digest, blob.size.unwrap_or(size));
    // A blob that is not stored yet gets its record together with its bytes, in one commit if the
    // store can.
    let pinned = match store.content.stat(&blob.digest).await? {
        None => None,
        Some(_) => {
            let found = Digest::of(blob.digest.algorithm(), &data);
            let checked = expected.check(&found, size);
            checked.map_err(|error| error.operation("store").subject(blob.digest))?;
            pin(store, lease, blob).await?
        }
    };
    let stat = pinned.as_ref().and_then(|pinned| pinned.stat);
    let record = pinned.as_ref().map(|pinned| &pinned.record);
    // A damaged blob is written again.
    if let Some(stat) = stat.filter(|stat| stat.size == size)
        && is_intact(store, &stat, record).await?
    {
        return match durability {
            Durability::Relaxed => Ok(()),
            // The stored blob may have been published without a sync.
            _ => store.content.flush().await,
        };
    }
    let key = blob.digest.to_string();
    let mut writer = Writer::begin(&*store.content, &key, expected).await?;
    if writer.offset() > 0 {
        writer.rewind().await?;
    }
    writer.write(data).await?;
    writer.verify().await?;
    if let Some(damaged) = stat {
        store
            .content
            .remove_version(&blob.digest, damaged.version)
            .await?;
    }
    let published = publish(store, lease, writer, blob, durability);
    published.await.map(|_| ())
}
