//! Pinning: a compare-and-swap that adds a lease to the record of a blob.
//!
//! A collector that read the record before the swap can no longer write a tombstone (the mark of a
//! blob that is being removed) into the record. A collector that reads the record later finds the
//! lease. The bytes are looked up only after the swap, because until then a collector may still
//! remove them.

use std::collections::BTreeSet;
use std::time::SystemTime;

use futures_util::{StreamExt, TryStreamExt, stream};

use super::revive::revive;
use super::swap::{lost, swap};
use crate::capability::Capability;
use crate::content::{Stat, Version};
use crate::descriptor::Descriptor;
use crate::digest::Digest;
use crate::error::{ErrorKind, Result};
use crate::media_type::MediaType;
use crate::owner::Owner;
use crate::records::{
    ATTEMPTS, Batch, BlobRecord, Blobs, Expect, Revision, Tombstone, UNLEASED_TTL,
};
use crate::store::Store;
use crate::time::later;

/// Maximum number of blobs that are pinned concurrently, if they are not pinned in one batch.
const CONCURRENT: usize = 16;
/// If a record names more leases than this, the leases that have ended are removed from the record.
const STALE: usize = 8;

/// A blob to pin, with the properties that the caller states.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlobRef {
    /// Its digest.
    pub digest: Digest,
    /// Its size in bytes. Without a size, the blob is pinned only if the store has the blob or its
    /// record.
    pub size: Option<u64>,
    /// Its media type.
    pub media_type: Option<MediaType>,
    /// Its children, if it is a document (an index or a manifest). If there are any, they replace
    /// the children that the record of the blob lists. The record lists other children only if it
    /// was damaged.
    pub children: Vec<Digest>,
    /// The children to record as absent; see [`BlobRecord::absent`].
    pub absent: BTreeSet<Digest>,
    /// The version of its bytes, if they were verified.
    pub verified: Option<Version>,
}

impl BlobRef {
    /// Returns a reference to the blob of a descriptor, with these children. The blob need not be
    /// in the store yet.
    pub fn of(descriptor: &Descriptor, children: Vec<Digest>) -> Self {
        BlobRef {
            digest: descriptor.digest,
            size: Some(descriptor.size),
            media_type: Some(descriptor.media_type.clone()),
            children,
            absent: BTreeSet::new(),
            verified: None,
        }
    }

    /// Returns a reference to the blob with this digest, without any other property. The blob is
    /// pinned only if the store has the blob or its record.
    pub fn existing(digest: Digest) -> Self {
        BlobRef {
            digest,
            size: None,
            media_type: None,
            children: Vec::new(),
            absent: BTreeSet::new(),
            verified: None,
        }
    }
}

/// A blob that was pinned.
#[derive(Clone, Debug)]
pub(crate) struct Pinned {
    pub(crate) record: BlobRecord,
    /// The bytes, which stay for as long as the blob is pinned; `None` if the store lacks them.
    pub(crate) stat: Option<Stat>,
}

/// Pins a blob under `lease`, or for [`UNLEASED_TTL`] if `lease` is `None`. Returns `None` if
/// `blob` has no size and the store has neither the blob nor its record.
pub(crate) async fn pin(
    store: &Store,
    lease: Option<&str>,
    blob: &BlobRef,
) -> Result<Option<Pinned>> {
    // A collection may remove the record while the blob is revived. Then only this copy still lists
    // the children. Without the list, missing children would count as left out.
    let mut revived: Option<BlobRecord> = None;
    for _ in 0..ATTEMPTS {
        let swapped = match plan(store, lease, blob).await? {
            Plan::Nothing => return Ok(None),
            Plan::Swap(record, expect) => {
                let known = revived.take().filter(|_| expect == Expect::Absent);
                let record = known.unwrap_or(*record);
                swap(store, &blob.digest, record, expect).await?
            }
            Plan::Revive(record, tombstone, revision) => {
                revived = Some((*record).clone());
                revive(store, &blob.digest, *record, tombstone, revision).await?
            }
        };
        if let Some(record) = swapped {
            let stat = store.content.stat(&blob.digest).await?;
            return Ok(Some(Pinned { record, stat }));
        }
    }
    Err(lost(&blob.digest))
}

/// Pins blobs as [`pin`] does, in one batch if possible.
pub(crate) async fn pin_all(
    store: &Store,
    lease: Option<&str>,
    blobs: &[BlobRef],
) -> Result<Vec<Option<Pinned>>> {
    if store.records.capabilities().has(Capability::Atomic)
        && let Some(pinned) = pin_at_once(store, lease, blobs).await?
    {
        return Ok(pinned);
    }
    // A closure here would make the future `!Send`.
    let mut pins = Vec::with_capacity(blobs.len());
    for blob in blobs {
        pins.push(pin(store, lease, blob));
    }
    stream::iter(pins).buffered(CONCURRENT).try_collect().await
}

/// Pins blobs in one batch. Returns `None` if one of them has to be revived or was changed
/// meanwhile.
async fn pin_at_once(
    store: &Store,
    lease: Option<&str>,
    blobs: &[BlobRef],
) -> Result<Option<Vec<Option<Pinned>>>> {
    let (mut batch, mut records) = (Batch::new(), Vec::with_capacity(blobs.len()));
    for blob in blobs {
        records.push(match plan(store, lease, blob).await? {
            Plan::Nothing => None,
            Plan::Revive(..) => return Ok(None),
            Plan::Swap(record, expect) => {
                Blobs::put(&mut batch, &blob.digest, &record, expect)?;
                Some(*record)
            }
        });
    }
    match store.records.commit(&batch).await {
        Err(error) if error.kind() == ErrorKind::Conflict => return Ok(None),
        outcome => outcome?,
    }
    let mut pinned = Vec::with_capacity(blobs.len());
    for (blob, record) in blobs.iter().zip(records) {
        pinned.push(match record {
            None => None,
            Some(record) => {
                let stat = store.content.stat(&blob.digest).await?;
                Some(Pinned { record, stat })
            }
        });
    }
    Ok(Some(pinned))
}

/// What it takes to pin a blob.
pub(super) enum Plan {
    Nothing,
    Swap(Box<BlobRecord>, Expect),
    Revive(Box<BlobRecord>, Tombstone, Revision),
}

pub(super) async fn plan(store: &Store, lease: Option<&str>, blob: &BlobRef) -> Result<Plan> {
    let Some((mut record, revision)) = store.blobs().load(&blob.digest).await? else {
        let size = match blob.size {
            Some(size) => Some(size),
            None => store
                .content
                .stat(&blob.digest)
                .await?
                .map(|stat| stat.size),
        };
        let Some(size) = size else {
            return Ok(Plan::Nothing);
        };
        let mut record = BlobRecord::new(size, None);
        record.expires_at = None;
        add_pin(&mut record, lease, store.owner(), blob);
        return Ok(Plan::Swap(Box::new(record), Expect::Absent));
    };
    if record.leases.len() > STALE {
        remove_ended_leases(store, &mut record).await?;
    }
    // The record that is written describes a live blob. A blob is tombstoned only after its last
    // owner has dropped it, so the claims in the record have ended.
    let tombstone = record.tombstone.take();
    if tombstone.is_some() {
        record.owners.clear();
    }
    add_pin(&mut record, lease, store.owner(), blob);
    let record = Box::new(record);
    Ok(match tombstone {
        None => Plan::Swap(record, Expect::Revision(revision)),
        Some(tombstone) => Plan::Revive(record, tombstone, revision),
    })
}

/// Adds to a record the lease, the claim of an owner, and what `blob` states.
fn add_pin(record: &mut BlobRecord, lease: Option<&str>, owner: Option<&Owner>, blob: &BlobRef) {
    record.owners.extend(owner.cloned());
    match lease {
        Some(lease) => {
            record.leases.insert(lease.to_owned());
        }
        None => record.expires_at = Some(SystemTime::now() + UNLEASED_TTL),
    }
    if record.media_type.is_none() {
        record.media_type.clone_from(&blob.media_type);
    }
    if !blob.children.is_empty() {
        // A child that an earlier job recorded as stored stays stored.
        let listed = std::mem::replace(&mut record.children, blob.children.clone());
        let stored: BTreeSet<Digest> = listed
            .into_iter()
            .filter(|child| !record.absent.contains(child))
            .collect();
        record.absent = blob.absent.difference(&stored).copied().collect();
    }
    record.verified = blob.verified.or(record.verified);
    record.updated_at = later(record.updated_at);
}

/// Removes the ids of leases that have ended. A job that creates its lease again pins everything
/// again, so the id is then added again.
async fn remove_ended_leases(store: &Store, record: &mut BlobRecord) -> Result<()> {
    let leases = store.leases();
    let mut live = BTreeSet::new();
    for id in std::mem::take(&mut record.leases) {
        if leases.load(&id).await?.is_some() {
            live.insert(id);
        }
    }
    record.leases = live;
    Ok(())
}
