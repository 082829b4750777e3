//! One compare-and-swap on the record of a blob.

use crate::digest::Digest;
use crate::error::{Error, ErrorKind, Result};
use crate::records::{Batch, BlobRecord, Blobs, Expect};
use crate::store::Store;

/// Writes the record if it is as `expect` says. Returns the record written, or `None` if another
/// writer was faster.
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

/// The error of a blob that was collected while it was being pinned.
pub(super) fn lost(digest: &Digest) -> Error {
    Error::conflict("the blob was collected meanwhile; store it again")
        .operation("pin")
        .subject(digest)
}
