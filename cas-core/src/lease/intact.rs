//! Checks whether stored bytes still have their digest.
//!
//! A job does not store a blob again if the store has an intact copy. If the stored copy is
//! damaged, the job replaces it. The stored bytes are hashed to find out whether they are damaged.
//! They are not hashed if the record of the blob names their version as verified and
//! `ContentStore::is_unchanged` returns true. Small blobs, such as documents and configurations,
//! are always hashed.

use crate::content::{ContentExt, Stat};
use crate::digest::Digest;
use crate::error::Result;
use crate::records::BlobRecord;
use crate::store::Store;

/// Number of bytes up to which a blob is always hashed. Reading so few bytes takes hardly longer
/// than finding out whether anything has changed them.
const SMALL: u64 = 1 << 20;

/// Returns whether the stored bytes have their digest. Bytes that were verified before, and are
/// more than [`SMALL`], are not hashed again if `ContentStore::is_unchanged` returns true.
///
/// # Errors
/// Errors of the store.
pub(crate) async fn is_intact(
    store: &Store,
    stat: &Stat,
    record: Option<&BlobRecord>,
) -> Result<bool> {
    let verified = record.and_then(|record| record.verified);
    if stat.size > SMALL
        && verified == Some(stat.version)
        && store.content.is_unchanged(stat).await?
    {
        return Ok(true);
    }
    store.content.is_intact(&stat.digest).await
}

/// Returns the stored copy of a blob, and whether it is intact. A copy of another size than `size`
/// is damaged. Returns `None` if the store does not have the blob.
///
/// # Errors
/// Errors of the store.
pub(crate) async fn stored_copy(
    store: &Store,
    digest: &Digest,
    size: u64,
) -> Result<Option<(Stat, bool)>> {
    let Some(stat) = store.content.stat(digest).await? else {
        return Ok(None);
    };
    if stat.size != size {
        return Ok(Some((stat, false)));
    }
    let record = store.blobs().load(digest).await?;
    let record = record.as_ref().map(|(record, _)| record);
    let is_intact = is_intact(store, &stat, record).await?;
    Ok(Some((stat, is_intact)))
}

/// Removes the stored copy of a blob if it is damaged, so that the right bytes can be stored.
/// Returns whether it was removed.
///
/// # Errors
/// Errors of the store.
pub(super) async fn remove_damaged(store: &Store, digest: &Digest, size: u64) -> Result<bool> {
    match stored_copy(store, digest, size).await? {
        Some((stat, false)) => store.content.remove_version(digest, stat.version).await,
        _ => Ok(false),
    }
}
