//! The touch: a compare-and-swap on the record of a blob that makes a collection pass it over.
//!
//! A collection that noted the record before cannot condemn it any more; one that begins later
//! reads the lease that is written with the touch. Whether the bytes are there is asked after the
//! swap, for only then nobody takes them away.

use std::collections::BTreeSet;
use std::time::SystemTime;

use futures_util::{StreamExt, TryStreamExt, stream};

use super::revive::revive;
use super::swap::{lost, swap};
use crate::capability::Capability;
use crate::content::Stat;
use crate::descriptor::Descriptor;
use crate::digest::Digest;
use crate::error::{ErrorKind, Result};
use crate::media_type::MediaType;
use crate::records::{
    ATTEMPTS, Batch, BlobRecord, Blobs, Expect, Revision, Tombstone, UNLEASED_TTL,
};
use crate::store::Store;
use crate::time::later;

/// Touches under way at once, where the home has no transactions.
const CONCURRENT: usize = 16;
/// Leases named in a record before those that have ended are looked for.
const STALE: usize = 8;

/// A blob that is to be pinned, and what is known of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlobRef {
    /// Its digest.
    pub digest: Digest,
    /// Its size; without it only what is there is pinned.
    pub size: Option<u64>,
    /// Its type.
    pub media_type: Option<MediaType>,
    /// What its document lists.
    pub children: Vec<Digest>,
    /// Those of its children that are not stored with it.
    pub absent: BTreeSet<Digest>,
}

impl BlobRef {
    /// The blob of a descriptor with these children, there or to be stored.
    pub fn of(descriptor: &Descriptor, children: Vec<Digest>) -> Self {
        BlobRef {
            digest: descriptor.digest,
            size: Some(descriptor.size),
            media_type: Some(descriptor.media_type.clone()),
            children,
            absent: BTreeSet::new(),
        }
    }

    /// A blob of which nothing is known, if it is there.
    pub fn existing(digest: Digest) -> Self {
        BlobRef {
            digest,
            size: None,
            media_type: None,
            children: Vec::new(),
            absent: BTreeSet::new(),
        }
    }
}

/// A blob that is pinned now.
#[derive(Clone, Debug)]
pub(crate) struct Pinned {
    pub(crate) record: BlobRecord,
    /// The bytes, which stay as long as it is pinned; nothing when they are yet to be stored.
    pub(crate) stat: Option<Stat>,
}

/// Holds a blob under `lease`, or for the time of an unleased one; nothing when it is not there
/// and not to be stored.
pub(crate) async fn pin(
    store: &Store,
    lease: Option<&str>,
    blob: &BlobRef,
) -> Result<Option<Pinned>> {
    for _ in 0..ATTEMPTS {
        let swapped = match plan(store, lease, blob).await? {
            Plan::Nothing => return Ok(None),
            Plan::Swap(record, expect) => swap(store, &blob.digest, *record, expect).await?,
            Plan::Revive(record, tombstone, revision) => {
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

/// As [`hold`] of each; in one step where the home can.
pub(crate) async fn pin_all(
    store: &Store,
    lease: Option<&str>,
    blob: &[BlobRef],
) -> Result<Vec<Option<Pinned>>> {
    if store.records.capabilities().has(Capability::Atomic)
        && let Some(pinned) = pin_at_once(store, lease, blob).await?
    {
        return Ok(pinned);
    }
    // A closure here would keep the compiler from seeing that it can be sent.
    let mut touches = Vec::with_capacity(blob.len());
    for one in blob {
        touches.push(pin(store, lease, one));
    }
    stream::iter(touches)
        .buffered(CONCURRENT)
        .try_collect()
        .await
}

/// Nothing when one of them wants more than a swap, or was changed meanwhile.
async fn pin_at_once(
    store: &Store,
    lease: Option<&str>,
    blob: &[BlobRef],
) -> Result<Option<Vec<Option<Pinned>>>> {
    let (mut batch, mut records) = (Batch::new(), Vec::with_capacity(blob.len()));
    for one in blob {
        records.push(match plan(store, lease, one).await? {
            Plan::Nothing => None,
            Plan::Revive(..) => return Ok(None),
            Plan::Swap(record, expect) => {
                Blobs::put(&mut batch, &one.digest, &record, expect)?;
                Some(*record)
            }
        });
    }
    match store.records.commit(&batch).await {
        Err(error) if error.kind() == ErrorKind::Conflict => return Ok(None),
        outcome => outcome?,
    }
    let mut pinned = Vec::with_capacity(blob.len());
    for (one, record) in blob.iter().zip(records) {
        pinned.push(match record {
            None => None,
            Some(record) => {
                let stat = store.content.stat(&one.digest).await?;
                Some(Pinned { record, stat })
            }
        });
    }
    Ok(Some(pinned))
}

/// The next step to hold a blob.
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
        enter(&mut record, lease, blob);
        return Ok(Plan::Swap(Box::new(record), Expect::Absent));
    };
    if record.leases.len() > STALE {
        forget_ended(store, &mut record).await?;
    }
    enter(&mut record, lease, blob);
    // Whatever is written of it from here on is of a live blob.
    let tombstone = record.tombstone.take();
    let record = Box::new(record);
    Ok(match tombstone {
        None => Plan::Swap(record, Expect::Revision(revision)),
        Some(tombstone) => Plan::Revive(record, tombstone, revision),
    })
}

/// Writes down who holds the blob, and what is known of it.
fn enter(record: &mut BlobRecord, lease: Option<&str>, blob: &BlobRef) {
    match lease {
        Some(lease) => {
            record.leases.insert(lease.to_owned());
        }
        None => record.expires_at = Some(SystemTime::now() + UNLEASED_TTL),
    }
    if record.media_type.is_none() {
        record.media_type.clone_from(&blob.media_type);
    }
    if record.children.is_empty() {
        record.children.clone_from(&blob.children);
        record.absent.clone_from(&blob.absent);
    } else if !blob.children.is_empty() {
        // A child that was stored later is absent no more.
        record.absent.retain(|child| blob.absent.contains(child));
    }
    record.updated_at = later(record.updated_at);
}

/// Drops the ids of leases that have ended; one that is renewed enters itself everywhere again.
async fn forget_ended(store: &Store, record: &mut BlobRecord) -> Result<()> {
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
