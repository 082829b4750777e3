//! Blobs of all sizes at all durabilities.

use std::mem;
use std::time::Duration;

use anyhow::Result;
use bytes::Bytes;
use cas::backend::pool;
use cas::content::Durability;
use cas::lease::LeaseGuard;
use cas::{Descriptor, MediaType};
use testkit::random::Random;

use super::Worker;
use crate::promise::{PRESENT, Resource};

/// The number of blobs that each thread stores.
const BLOBS: u64 = 30;
/// Longer than the work takes.
const TTL: Duration = Duration::from_secs(86_400);

pub(super) fn run(worker: &Worker, thread: u64, mut random: Random) -> Result<()> {
    let store = worker.cas.store();
    let purpose = format!("thread{thread}");
    let guard = pool::wait(LeaseGuard::begin_for(store, &purpose, TTL))?;
    let lease = Resource::Lease(guard.id().to_owned());
    worker.notes.did(&lease, PRESENT)?;
    // Stored, but only durable after the next flush.
    let mut relaxed = Vec::new();
    for number in 1..=BLOBS {
        let size = size(&mut random);
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
        pool::wait(guard.put(&descriptor, data, durability))?;
        if durability == Durability::Relaxed {
            relaxed.push((blob, value));
        } else {
            worker.notes.did(&blob, &value)?;
        }
        if random.below(8) == 0 || number == BLOBS {
            pool::wait(store.content.flush())?;
            for (blob, value) in mem::take(&mut relaxed) {
                worker.notes.did(&blob, &value)?;
            }
        }
    }
    // The lease ends when it expires, not with this process.
    mem::forget(guard);
    Ok(())
}

/// Returns a size in bytes: mostly small, now and then more than 1 MiB.
fn size(random: &mut Random) -> usize {
    let bound = match random.below(20) {
        0 => 3 << 20,
        1..5 => 200 << 10,
        _ => 6 << 10,
    };
    random.below(bound) as usize
}
