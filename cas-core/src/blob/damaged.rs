//! Recording that the stored bytes of a blob are damaged.

use crate::content::{ContentExt, VerifiedReader};
use crate::descriptor::Descriptor;
use crate::digest::Digest;
use crate::error::{Error, ErrorKind, REPAIR_BYTES, Result};
use crate::records::BlobRecord;
use crate::store::Store;

/// Removes [`BlobRecord::verified`] from the record of a blob. Whatever finds that the stored bytes
/// of the blob are damaged calls this. The next job that has the right bytes then hashes the stored
/// bytes, and replaces them, even if the damage has changed no time.
///
/// Ignores errors, because the caller reports the damage itself. In a store that cannot be written,
/// the record stays as it is.
pub(crate) async fn note_damaged(store: &Store, digest: &Digest) {
    let forget = |record: Option<BlobRecord>| match record {
        Some(record) => Ok(BlobRecord {
            verified: None,
            ..record
        }),
        None => Err(Error::not_found("the blob has no record")),
    };
    if let Err(error) = store.blobs().update(digest, forget).await {
        tracing::debug!(%digest, %error, "the damage of a blob was not recorded");
    }
}

/// As [`ContentExt::read_verified`], but if the bytes are damaged, the next job that has the right
/// bytes, such as a pull or an import, replaces them.
///
/// # Errors
/// Errors of the store.
pub async fn read_verified(store: &Store, digest: &Digest) -> Result<Option<VerifiedReader>> {
    let reader = store.content.read_verified(digest).await?;
    let (store, digest) = (store.clone(), *digest);
    let note = async move { note_damaged(&store, &digest).await };
    Ok(reader.map(|reader| reader.on_damage(note)))
}

/// Returns `outcome`, the outcome of a job that has read `blobs`. If it is the error `Corrupt`, and
/// the stored bytes of one of the blobs are damaged, the returned error names this blob instead.
///
/// # Errors
/// The error of `outcome`, or the one that names the damaged blob.
pub async fn name_damaged<T>(store: &Store, blobs: &[Descriptor], outcome: Result<T>) -> Result<T> {
    let error = match outcome {
        Err(error) if error.kind() == ErrorKind::Corrupt => error,
        outcome => return outcome,
    };
    for Descriptor { digest, .. } in blobs {
        // A blob that is missing or that cannot be read does not show what went wrong.
        if let Ok(Some(found)) = store.content.hash(digest).await
            && found != *digest
        {
            let why = format!("the stored blob is damaged: its bytes hash to {found}");
            let damaged = Error::corrupt(why).advice(REPAIR_BYTES).source(error);
            return Err(damaged.operation("read").subject(digest));
        }
    }
    Err(error)
}
