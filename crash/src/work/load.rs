//! All kinds of changes at once.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Result, anyhow};
use cas::ErrorKind;
use cas::gc::GcOptions;
use testkit::random::Random;

use super::changes::change;
use super::ingest::{Kept, keep, release};
use super::{Worker, each_thread};

/// The number of blobs under each lease.
const BLOBS: u64 = 4;
/// The maximum number of leases that a thread keeps at a time.
const LEASES: usize = 3;

/// Makes changes and collections until the process is killed.
pub(super) fn run(worker: &Worker, seed: u64) -> Result<()> {
    each_thread(seed, |thread, mut random| {
        let mut kept = VecDeque::new();
        loop {
            if random.below(12) == 0 {
                worker.cas.gc()?;
            }
            any(worker, thread, &mut kept, &mut random)?;
        }
    })
}

/// The least time between two collections whose clocks are ahead. A job that has lost its lease
/// needs this time to find out which of its content is left.
const BETWEEN: Duration = Duration::from_millis(200);

/// Makes `changes` changes while collections run, and prints the number of collections and the
/// number of changes that lost a lease. If `later` is not zero, the clocks of some collections are
/// ahead by this time. A change whose job loses its lease may then fail with `Conflict`, or with
/// `NotFound` if a collection has removed content that the job needs.
pub(super) fn storm(worker: &Worker, seed: u64, changes: u64, later: Duration) -> Result<()> {
    let (left, lost) = (AtomicU64::new(changes), AtomicU64::new(0));
    let over = AtomicBool::new(false);
    let take = || {
        let less = |left: u64| left.checked_sub(1);
        left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less)
    };
    thread::scope(|scope| {
        let collector = scope.spawn(|| -> Result<u64> {
            let (mut collections, mut last) = (0, Instant::now());
            while !over.load(Ordering::Relaxed) {
                let mut options = GcOptions::default();
                // One process is enough to end the leases of all.
                if worker.process == 0 && !later.is_zero() && last.elapsed() > BETWEEN {
                    options = options.with_now(SystemTime::now() + later);
                    last = Instant::now();
                }
                worker.cas.gc_with(options)?;
                collections += 1;
            }
            Ok(collections)
        });
        let worked = each_thread(seed, |thread, mut random| {
            let mut kept = VecDeque::new();
            while take().is_ok() {
                match any(worker, thread, &mut kept, &mut random) {
                    Err(error) if !later.is_zero() && is_of_lost_lease(&error) => {
                        lost.fetch_add(1, Ordering::Relaxed);
                    }
                    done => done?,
                }
            }
            Ok(())
        });
        over.store(true, Ordering::Relaxed);
        let collected = collector.join();
        worked?;
        let collections = collected.map_err(|_| anyhow!("the collector panicked"))??;
        println!("{collections} {}", lost.into_inner());
        Ok(())
    })
}

fn is_of_lost_lease(error: &anyhow::Error) -> bool {
    let error = error.downcast_ref::<cas::Error>();
    let kinds = [ErrorKind::Conflict, ErrorKind::NotFound];
    error.is_some_and(|error| kinds.contains(&error.kind()))
}

/// Stores blobs under a new lease, ends a lease, or changes images or snapshots.
fn any(worker: &Worker, thread: u64, kept: &mut VecDeque<Kept>, random: &mut Random) -> Result<()> {
    if random.below(4) != 0 {
        return change(worker, thread, random);
    }
    if kept.len() == LEASES
        && let Some(oldest) = kept.pop_front()
    {
        return release(worker, &oldest);
    }
    kept.push_back(keep(worker, thread, BLOBS, random)?);
    Ok(())
}
