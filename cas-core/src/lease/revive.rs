//! Reviving a blob that has a tombstone (the mark of a blob that is being removed), because a job
//! needs the blob.

use super::swap::swap;
use crate::content::{BlobReader, Durability, Expected, OwnIngest, Stat, Writer};
use crate::digest::Digest;
use crate::error::{ErrorKind, Result};
use crate::records::{Batch, BlobRecord, Expect, Revision, Tombstone};
use crate::store::Store;

/// Maximum number of bytes that are copied in one step.
const PIECE: usize = 1 << 20;

/// Makes a tombstoned blob live again. Its bytes, if they are intact, are stored again as a new
/// version, because a slow collector may still remove the version that the tombstone names. Returns
/// the record as written, or `None` if another writer was faster.
pub(super) async fn revive(
    store: &Store,
    digest: &Digest,
    record: BlobRecord,
    tombstone: Tombstone,
    revision: Revision,
) -> Result<Option<BlobRecord>> {
    let ingest = OwnIngest::new(&store.content, "revive");
    match store_again(store, digest, tombstone, ingest.key()).await {
        Ok(()) => ingest.published(),
        Err(error) => {
            // If this fails too, a collection discards the ingest.
            let _ = ingest.discard().await;
            return Err(error);
        }
    }
    swap(store, digest, record, Expect::Revision(revision)).await
}

/// Replaces the version that a tombstone names by a copy, which is written to the ingest `key`. If
/// the bytes are damaged, only removes them.
async fn store_again(
    store: &Store,
    digest: &Digest,
    tombstone: Tombstone,
    key: &str,
) -> Result<()> {
    let found = store.content.stat(digest).await?;
    let tombstoned = found.filter(|stat| Some(stat.version) == tombstone.version);
    let copied = match tombstoned {
        Some(stat) => copy_aside(store, &stat, key).await?,
        None => None,
    };
    reap(store, digest, tombstone).await?;
    if let Some(writer) = copied {
        writer.commit(&Batch::new(), Durability::Full).await?;
    }
    Ok(())
}

/// Copies the bytes to the ingest `key`. Returns `None` if they are gone or damaged.
async fn copy_aside(store: &Store, stat: &Stat, key: &str) -> Result<Option<Writer>> {
    let Some(reader) = store.content.open(&stat.digest).await? else {
        return Ok(None);
    };
    let expected = Expected::exactly(stat.digest, stat.size);
    let mut writer = Writer::begin(&*store.content, key, expected).await?;
    match copy(&*reader, &mut writer).await {
        Ok(()) if writer.digest().await? == stat.digest => return Ok(Some(writer)),
        Ok(()) => {}
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::Corrupt) => {}
        Err(error) => return Err(error),
    }
    drop(writer);
    store.content.discard(key).await?;
    Ok(None)
}

async fn copy(reader: &dyn BlobReader, writer: &mut Writer) -> Result<()> {
    loop {
        let piece = reader.read_at(writer.offset(), PIECE).await?;
        if piece.is_empty() {
            return Ok(());
        }
        writer.write(piece).await?;
    }
}

/// Removes the bytes that a tombstone names.
pub(super) async fn reap(store: &Store, digest: &Digest, tombstone: Tombstone) -> Result<()> {
    if let Some(version) = tombstone.version {
        store.content.remove_version(digest, version).await?;
    }
    Ok(())
}
