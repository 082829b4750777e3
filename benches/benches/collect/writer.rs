//! How long one who publishes waits, alone and beside a collection that removes everything.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::Result;
use cas::collect::{Options, collect};
use cas::content::{Durability, Expected, Writer};
use cas::records::{Batch, BlobRecord, Blobs, Expect};
use cas::{MediaType, Store, pool};
use tokio::runtime::Builder;

use super::fill::fill;
use super::{later, open};

const ROUNDS: u64 = 3;
const SIZE: usize = 4096;
/// Publishes without a collection; beside one there are as many as it lasts.
const ALONE: usize = 3_000;

pub(super) fn run(place: &Path) -> Result<()> {
    let runtime = Builder::new_current_thread().enable_time().build()?;
    for round in 0..ROUNDS {
        let directory = place.join("writer");
        let store = open(&runtime, "redb", &directory)?;
        runtime.block_on(fill(&store, 0))?;
        let mut number = round << 32;
        let mut count = 0;
        let mut alone = publish(&store, &mut number, || {
            count += 1;
            count <= ALONE
        })?;
        let (mut beside, taken) = beside(&store, &mut number)?;
        let (without, with) = (p99(&mut alone), p99(&mut beside));
        let ratio = with.as_secs_f64() / without.as_secs_f64();
        let verdict = if ratio <= 3.0 { "met" } else { "MISSED" };
        println!(
            "publish of 4 KiB, p99: alone {without:.0?}, beside a collection {with:.0?} \
             ({} of them in {taken:.2?}): {ratio:.1} times, goal 3 {verdict}",
            beside.len()
        );
        drop(store);
        std::fs::remove_dir_all(&directory)?;
    }
    Ok(())
}

/// The waits of a writer while everything that was there is removed, and how long that took.
fn beside(store: &Store, number: &mut u64) -> Result<(Vec<Duration>, Duration)> {
    let ended = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let collection = scope.spawn(|| {
            let options = Options { ..later() };
            let runtime = Builder::new_current_thread().build()?;
            let begun = Instant::now();
            let done = runtime.block_on(collect(store, &[], &options));
            ended.store(true, Ordering::Release);
            done.map(|_| begun.elapsed()).map_err(anyhow::Error::from)
        });
        let waits = publish(store, number, || !ended.load(Ordering::Acquire))?;
        let taken = collection.join().unwrap()?;
        Ok((waits, taken))
    })
}

fn publish(
    store: &Store,
    number: &mut u64,
    mut go_on: impl FnMut() -> bool,
) -> Result<Vec<Duration>> {
    let mut waits = Vec::new();
    while go_on() {
        *number += 1;
        let mut data = vec![7; SIZE];
        data[..8].copy_from_slice(&number.to_le_bytes());
        let begun = Instant::now();
        pool::wait(one(store, *number, data))?;
        waits.push(begun.elapsed());
    }
    Ok(waits)
}

async fn one(store: &Store, number: u64, data: Vec<u8>) -> cas::Result<()> {
    let mut writer = Writer::begin(&*store.content, &number.to_string(), Expected::ANY).await?;
    writer.write(data.into()).await?;
    let mut batch = Batch::new();
    let record = BlobRecord::new(SIZE as u64, Some(MediaType::OCI_LAYER));
    Blobs::put(&mut batch, &writer.digest()?, &record, Expect::Absent)?;
    writer.commit(&batch, Durability::Full).await?;
    Ok(())
}

fn p99(waits: &mut [Duration]) -> Duration {
    waits.sort();
    waits
        .get(waits.len() * 99 / 100)
        .copied()
        .unwrap_or_default()
}
