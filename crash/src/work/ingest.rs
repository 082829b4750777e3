//! Blobs of all sizes at all durabilities, under leases.

use std::mem;
use std::time::{Duration, SystemTime};

use anyhow::Result;
use bytes::Bytes;
use cas::backend::pool;
use cas::content::Durability;
use cas::lease::LeaseGuard;
use cas::{Descriptor, MediaType, Store};
use testkit::random::Random;

use super::{Worker, owner};
use crate::promise::{ABSENT, PRESENT, Resource};

/// The number of blobs under each lease.
const BLOBS: u64 = 30;
/// The duration of a lease, which is longer than any work takes. The clocks of collections that
/// workers run are ahead by less than this duration.
const TTL: Duration = Duration::from_secs(30 * 86_400);

/// Blobs that a lease keeps.
pub(super) struct Kept {
    lease: String,
    blobs: Vec<Resource>,
}

pub(super) fn run(worker: &Worker, thread: u64, mut random: Random) -> Result<()> {
    keep(worker, thread, BLOBS, &mut random).map(|_| ())
}

/// Stores `count` blobs under a new lease. If this process ends, the lease stays until it is
/// released or expires.
pub(super) fn keep(worker: &Worker, thread: u64, count: u64, random: &mut Random) -> Result<Kept> {
    let store = worker.cas.store();
    let purpose = owner(worker.process, thread);
    let guard = pool::wait(LeaseGuard::begin_for(store, &purpose, TTL))?;
    let lease = guard.id().to_owned();
    worker.notes.did(&Resource::Lease(lease.clone()), PRESENT)?;
    let mut blobs = Vec::new();
    // Stored, but only durable after the next flush.
    let mut relaxed = Vec::new();
    for number in 1..=count {
        let size = size(random);
        let data = Bytes::from(random.bytes(size));
        let descriptor = Descriptor::of(MediaType::from("application/octet-stream"), &data);
        let (blob, value) = (
            Resource::Blob(descriptor.digest.to_string()),
            descriptor.size.to_string(),
        );
        let durability = match random.below(4) {
            0 => Durability::Relaxed,
            1 => Durability::Full,
            _ => Durability::Batched,
        };
        worker.notes.trying(&blob, &value)?;
        blobs.push(blob.clone());
        pool::wait(guard.put(&descriptor, data, durability))?;
        if durability == Durability::Relaxed {
            relaxed.push((blob, value));
        } else {
            worker.notes.did(&blob, &value)?;
        }
        if random.below(8) == 0 || number == count {
            pool::wait(store.content.flush())?;
            for (blob, value) in mem::take(&mut relaxed) {
                worker.notes.did(&blob, &value)?;
            }
        }
    }
    mem::forget(guard);
    Ok(Kept { lease, blobs })
}

/// Ends the lease of `kept`. A collection may then remove the blobs of this lease.
pub(super) fn release(worker: &Worker, kept: &Kept) -> Result<()> {
    for blob in &kept.blobs {
        worker.notes.free(blob)?;
    }
    let lease = Resource::Lease(kept.lease.clone());
    worker.notes.trying(&lease, ABSENT)?;
    end_lease(worker.cas.store(), &kept.lease)?;
    worker.notes.did(&lease, ABSENT)
}

/// Ends the lease `id`, if it exists, even if another process owns it.
fn end_lease(store: &Store, id: &str) -> Result<()> {
    if let Some((lease, _)) = pool::wait(store.leases().load(id))? {
        let now = SystemTime::now();
        pool::wait(store.leases().delete(id, &lease.owner, now))?;
    }
    Ok(())
}

/// Returns a random size in bytes: in 15 of 20 cases less than 6 KiB, in 4 cases less than 200 KiB,
/// and in 1 case less than 3 MiB.
fn size(random: &mut Random) -> usize {
    let bound = match random.below(20) {
        0 => 3 << 20,
        1..5 => 200 << 10,
        _ => 6 << 10,
    };
    random.below(bound) as usize
}
