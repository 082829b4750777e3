//! The touch: a compare-and-swap on the record of a blob that makes a collection pass it over.
//!
//! A collection that noted the record before cannot condemn it any more; one that begins later
//! reads the lease that is written with the touch. Whether the bytes are there is asked after the
//! swap, for only then nobody takes them away.

use std::collections::BTreeSet;
use std::time::SystemTime;

use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};

use super::revive::{bury, revive};
use crate::capability::Capability;
use crate::content::{Committed, Durability, Expected, Stat, Writer};
use crate::descriptor::Descriptor;
use crate::digest::Digest;
use crate::error::{Error, Kind, Result};
use crate::media_type::MediaType;
use crate::records::{ATTEMPTS, Batch, BlobRecord, Blobs, Expect, Revision, Tombstone, UNLEASED};
use crate::store::Store;
use crate::time::later;

/// Touches under way at once, where the home has no transactions.
const CONCURRENT: usize = 16;
/// Leases named in a record before those that have ended are looked for.
const STALE: usize = 8;

/// A blob that is to be held, and what is known of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Its digest.
    pub digest: Digest,
    /// Its size; without it only what is there is held.
    pub size: Option<u64>,
    /// Its type.
    pub media_type: Option<MediaType>,
    /// What its document lists.
    pub children: Vec<Digest>,
    /// Those of its children that are not stored with it.
    pub absent: BTreeSet<Digest>,
}

impl Wanted {
    /// The blob of a descriptor with these children, there or to be stored.
    pub fn described(descriptor: &Descriptor, children: Vec<Digest>) -> Self {
        Wanted {
            digest: descriptor.digest,
            size: Some(descriptor.size),
            media_type: Some(descriptor.media_type.clone()),
            children,
            absent: BTreeSet::new(),
        }
    }

    /// A blob of which nothing is known, if it is there.
    pub fn there(digest: Digest) -> Self {
        Wanted {
            digest,
            size: None,
            media_type: None,
            children: Vec::new(),
            absent: BTreeSet::new(),
        }
    }
}

/// A blob that is held now.
#[derive(Clone, Debug)]
pub(crate) struct Held {
    pub(crate) record: BlobRecord,
    /// The bytes, which stay as long as it is held; nothing when they are yet to be stored.
    pub(crate) stat: Option<Stat>,
}

/// Holds a blob under `lease`, or for the time of an unleased one; nothing when it is not there
/// and not to be stored.
pub(crate) async fn hold(
    store: &Store,
    lease: Option<&str>,
    wanted: &Wanted,
) -> Result<Option<Held>> {
    for _ in 0..ATTEMPTS {
        let swapped = match plan(store, lease, wanted).await? {
            Plan::Nothing => return Ok(None),
            Plan::Swap(record, expect) => swap(store, &wanted.digest, *record, expect).await?,
            Plan::Revive(record, tombstone, revision) => {
                revive(store, &wanted.digest, *record, tombstone, revision).await?
            }
        };
        if let Some(record) = swapped {
            let stat = store.content.stat(&wanted.digest).await?;
            return Ok(Some(Held { record, stat }));
        }
    }
    Err(lost(&wanted.digest))
}

/// As [`hold`] of each; in one step where the home can.
pub(crate) async fn hold_all(
    store: &Store,
    lease: Option<&str>,
    wanted: &[Wanted],
) -> Result<Vec<Option<Held>>> {
    if store.records.capabilities().has(Capability::Atomic)
        && let Some(held) = hold_at_once(store, lease, wanted).await?
    {
        return Ok(held);
    }
    // A closure here would keep the compiler from seeing that it can be sent.
    let mut touches = Vec::with_capacity(wanted.len());
    for one in wanted {
        touches.push(hold(store, lease, one));
    }
    stream::iter(touches)
        .buffered(CONCURRENT)
        .try_collect()
        .await
}

/// Nothing when one of them wants more than a swap, or was changed meanwhile.
async fn hold_at_once(
    store: &Store,
    lease: Option<&str>,
    wanted: &[Wanted],
) -> Result<Option<Vec<Option<Held>>>> {
    let (mut batch, mut records) = (Batch::new(), Vec::with_capacity(wanted.len()));
    for one in wanted {
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
        Err(error) if error.kind() == Kind::Conflict => return Ok(None),
        outcome => outcome?,
    }
    let mut held = Vec::with_capacity(wanted.len());
    for (one, record) in wanted.iter().zip(records) {
        held.push(match record {
            None => None,
            Some(record) => {
                let stat = store.content.stat(&one.digest).await?;
                Some(Held { record, stat })
            }
        });
    }
    Ok(Some(held))
}

/// Publishes what `writer` holds with its record, held under `lease`.
pub(crate) async fn publish(
    store: &Store,
    lease: Option<&str>,
    mut writer: Writer,
    wanted: &Wanted,
    durability: Durability,
) -> Result<Committed> {
    let key = writer.key().to_owned();
    let size = writer.offset();
    let digest = &wanted.digest;
    let joint = store.content.capabilities().has(Capability::Joint);
    for _ in 0..ATTEMPTS {
        let mut batch = Batch::new();
        let (record, expect) = match plan(store, lease, wanted).await? {
            Plan::Nothing => return Err(Error::internal("a publish without a size")),
            Plan::Swap(record, expect) => (record, expect),
            Plan::Revive(record, tombstone, revision) => {
                // What is condemned goes first, so that ours is stored as new.
                bury(store, digest, tombstone).await?;
                (record, Expect::Revision(revision))
            }
        };
        Blobs::put(&mut batch, digest, &record, expect)?;
        match writer.commit(&batch, durability).await {
            Ok(committed) if committed.batch => return Ok(committed),
            Ok(committed) => {
                record_published(store, lease, wanted, &batch).await?;
                return Ok(committed);
            }
            Err(error) if joint && error.kind() == Kind::Conflict => {
                // Nothing was stored, and the ingest is kept.
                let expected = Expected::exactly(*digest, size);
                writer = Writer::begin(&*store.content, &key, expected).await?;
                if writer.offset() != size {
                    // Another was faster with the same key, and has published what we wrote.
                    return published(store, lease, wanted, size, durability).await;
                }
            }
            Err(error) => return Err(error),
        }
    }
    Err(lost(digest))
}

/// Holds what somebody else has published, as if it were ours.
async fn published(
    store: &Store,
    lease: Option<&str>,
    wanted: &Wanted,
    size: u64,
    durability: Durability,
) -> Result<Committed> {
    let held = hold(store, lease, wanted).await?;
    let stat = held.and_then(|held| held.stat);
    if stat.is_none_or(|stat| stat.size != size) {
        return Err(lost(&wanted.digest));
    }
    if durability != Durability::Relaxed {
        store.content.flush().await?;
    }
    Ok(Committed {
        digest: wanted.digest,
        size,
        batch: true,
    })
}

/// Stores a small blob, held under `lease`; what is there already is not written again.
pub(crate) async fn put(
    store: &Store,
    lease: Option<&str>,
    wanted: &Wanted,
    data: Bytes,
    durability: Durability,
) -> Result<()> {
    let size = data.len() as u64;
    // What is not there gets its record with its bytes, in one commit where the store can.
    let stat = match store.content.stat(&wanted.digest).await? {
        None => None,
        Some(_) => hold(store, lease, wanted).await?.and_then(|held| held.stat),
    };
    // A blob of another size is damaged: it is written again.
    if stat.is_some_and(|stat| stat.size == size) {
        return match durability {
            Durability::Relaxed => Ok(()),
            // Whoever published it may not have synced it.
            _ => store.content.flush().await,
        };
    }
    let expected = Expected::exactly(wanted.digest, wanted.size.unwrap_or(size));
    let key = wanted.digest.to_string();
    let mut writer = Writer::begin(&*store.content, &key, expected).await?;
    if writer.offset() > 0 {
        writer.rewind().await?;
    }
    writer.write(data).await?;
    let published = publish(store, lease, writer, wanted, durability);
    published.await.map(|_| ())
}

/// Commits the record of bytes that were published without it.
async fn record_published(
    store: &Store,
    lease: Option<&str>,
    wanted: &Wanted,
    batch: &Batch,
) -> Result<()> {
    match store.records.commit(batch).await {
        Err(error) if error.kind() == Kind::Conflict => {
            hold(store, lease, wanted).await?;
        }
        outcome => outcome?,
    }
    match store.content.stat(&wanted.digest).await? {
        Some(_) => Ok(()),
        None => Err(lost(&wanted.digest)),
    }
}

/// The next step to hold a blob.
enum Plan {
    Nothing,
    Swap(Box<BlobRecord>, Expect),
    Revive(Box<BlobRecord>, Tombstone, Revision),
}

async fn plan(store: &Store, lease: Option<&str>, wanted: &Wanted) -> Result<Plan> {
    let Some((mut record, revision)) = store.blobs().load(&wanted.digest).await? else {
        let size = match wanted.size {
            Some(size) => Some(size),
            None => store
                .content
                .stat(&wanted.digest)
                .await?
                .map(|stat| stat.size),
        };
        let Some(size) = size else {
            return Ok(Plan::Nothing);
        };
        let mut record = BlobRecord::new(size, None);
        record.expires_at = None;
        enter(&mut record, lease, wanted);
        return Ok(Plan::Swap(Box::new(record), Expect::Absent));
    };
    if record.leases.len() > STALE {
        forget_ended(store, &mut record).await?;
    }
    enter(&mut record, lease, wanted);
    // Whatever is written of it from here on is of a live blob.
    let tombstone = record.tombstone.take();
    let record = Box::new(record);
    Ok(match tombstone {
        None => Plan::Swap(record, Expect::Revision(revision)),
        Some(tombstone) => Plan::Revive(record, tombstone, revision),
    })
}

/// Writes down who holds the blob, and what is known of it.
fn enter(record: &mut BlobRecord, lease: Option<&str>, wanted: &Wanted) {
    match lease {
        Some(lease) => {
            record.leases.insert(lease.to_owned());
        }
        None => record.expires_at = Some(SystemTime::now() + UNLEASED),
    }
    if record.media_type.is_none() {
        record.media_type.clone_from(&wanted.media_type);
    }
    if record.children.is_empty() {
        record.children.clone_from(&wanted.children);
        record.absent.clone_from(&wanted.absent);
    } else if !wanted.children.is_empty() {
        // A child that was stored later is absent no more.
        record.absent.retain(|child| wanted.absent.contains(child));
    }
    record.updated_at = later(record.updated_at);
}

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
        Err(error) if error.kind() == Kind::Conflict => Ok(None),
        Err(error) => Err(error),
    }
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

/// The error of a blob that was collected while it was being held.
pub(super) fn lost(digest: &Digest) -> Error {
    Error::conflict("was collected meanwhile; store it again")
        .operation("hold")
        .subject(digest)
}
