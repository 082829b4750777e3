//! One blob, joined with its record.

use std::time::SystemTime;

use crate::content::Stat;
use crate::digest::Digest;
use crate::error::Result;
use crate::labels::Labels;
use crate::media_type::MediaType;
use crate::records::BlobRecord;
use crate::store::Store;

/// A blob, with the data from its record. If a collection removed the blob and it was stored again,
/// the record of the removed copy is ignored, as if the blob had no record. A
/// [`BlobList`](super::BlobList) also ignores a record that does not parse.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct BlobInfo {
    /// Its digest.
    pub digest: Digest,
    /// Its length in bytes.
    pub size: u64,
    /// Its media type; `None` if the record of the blob has none, or if the blob has no record.
    pub media_type: Option<MediaType>,
    /// Its labels; empty if the blob has no record.
    pub labels: Labels,
    /// When the record of the blob was made; `None` if the blob has no record.
    pub created_at: Option<SystemTime>,
    /// When the record of the blob was last changed; `None` if the blob has no record.
    pub updated_at: Option<SystemTime>,
}

impl BlobInfo {
    /// Returns a blob of `size` bytes that has no record.
    pub fn new(digest: Digest, size: u64) -> Self {
        BlobInfo {
            digest,
            size,
            media_type: None,
            labels: Labels::new(),
            created_at: None,
            updated_at: None,
        }
    }

    /// Sets [`labels`](Self::labels).
    #[must_use]
    pub fn with_labels(mut self, labels: Labels) -> Self {
        self.labels = labels;
        self
    }

    /// Joins the bytes of a blob with its record. Returns `None` if a collection has decided to
    /// remove these bytes.
    pub(super) fn join(stat: &Stat, record: Option<BlobRecord>) -> Option<Self> {
        let bare = BlobInfo::new(stat.digest, stat.size);
        let Some(record) = record else {
            return Some(bare);
        };
        match record.tombstone {
            Some(tombstone) if tombstone.version == Some(stat.version) => None,
            // The record describes bytes that are gone.
            Some(_) => Some(bare),
            None => Some(BlobInfo {
                size: stat.size,
                ..BlobInfo::recorded(stat.digest, record)
            }),
        }
    }

    /// Returns a blob as its record describes it.
    pub(super) fn recorded(digest: Digest, record: BlobRecord) -> Self {
        BlobInfo {
            digest,
            size: record.size,
            media_type: record.media_type,
            labels: record.labels,
            created_at: Some(record.created_at),
            updated_at: Some(record.updated_at),
        }
    }
}

/// Returns a blob with the data from its record. Returns `None` if the blob is not in the store, or
/// if a collection is removing it.
///
/// # Errors
/// `Corrupt` if its record does not parse; errors of the store.
pub async fn info(store: &Store, digest: &Digest) -> Result<Option<BlobInfo>> {
    let found = find(store, digest).await?;
    Ok(found.and_then(|(stat, record)| BlobInfo::join(&stat, record)))
}

/// Returns a blob with its record, or `None` if the blob is not in the store.
pub(super) async fn find(
    store: &Store,
    digest: &Digest,
) -> Result<Option<(Stat, Option<BlobRecord>)>> {
    let Some(stat) = store.content.stat(digest).await? else {
        return Ok(None);
    };
    let record = store.blobs().load(digest).await?;
    Ok(Some((stat, record.map(|(record, _)| record))))
}
