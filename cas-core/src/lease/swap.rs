//! One compare-and-swap on the record of a blob.

use crate::digest::Digest;
use crate::error::{Error, ErrorKind, Result};
use crate::records::{Batch, BlobRecord, Blobs, Expect};
use crate::store::Store;

/// Writes the record if the stored record is in the state `expect`. Returns the record, or `None`
/// if another writer was faster.
pub(super) async fn swap(
    store: &Store,
    digest: &Digest,
    record: BlobRecord,
    expect: Expect,
) -> Result<Option<BlobRecord>> {
    let mut batch = Batch::new();
    Blobs::put(&mut batch, digest, &record, expect)?;
    match store.records.commit(&batch).await {
        Ok(()) => Ok(Some(record)),
        Err(error) if error.kind() == ErrorKind::Conflict => Ok(None),
        Err(error) => Err(error),
    }
}

/// Returns the error for a blob that was collected, or whose record kept changing, while a job
/// pinned or published it.
pub(super) fn lost(digest: &Digest) -> Error {
    Error::conflict(
        "the blob was collected, or other jobs kept changing its record; retry, or store the blob \
         again if it is gone",
    )
    .operation("pin")
    .subject(digest)
}
