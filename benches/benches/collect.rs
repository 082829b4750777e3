//! Measures how long it takes to publish a blob of 4 KiB in the store `redb`, alone and during a
//! garbage collection that removes more than 100,000 blobs. `cargo xtask bench` measures how long a
//! garbage collection takes.
//!
//! `cargo bench -p oci-cas-benches --bench collect`. The store is in `/dev/shm` if that directory
//! exists.
#![allow(clippy::unwrap_used, missing_docs, reason = "a bench may panic")]

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

use anyhow::Result;
use cas::backend::pool;
use cas::content::{Durability, Expected, Writer};
use cas::gc::{GcOptions, collect};
use cas::records::{Batch, BlobRecord, Blobs, Expect};
use cas::{Descriptor, Location, MediaType, Store};
use tokio::runtime::{Builder, Runtime};
use workload::{ImageBlobs, data};

const ROUNDS: u64 = 3;
/// Number of images, of a hundred blobs each.
const IMAGES: u32 = 1000;
const SIZE: usize = 4096;
/// Number of publishes without a collection. During a collection, publishes go on until the
/// collection ends.
const ALONE: usize = 3_000;

fn main() -> Result<()> {
    let runtime = Builder::new_current_thread().enable_time().build()?;
    let place = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir())?;
    for round in 0..ROUNDS {
        let directory = place.path().join("writer");
        let store = open(&runtime, &directory)?;
        runtime.block_on(fill(&store))?;
        let mut number = round << 32;
        let mut count = 0;
        let mut alone = publish(&store, &mut number, || {
            count += 1;
            count <= ALONE
        })?;
        let (mut during, taken) = during(&store, &mut number)?;
        let (without, with) = (p99(&mut alone), p99(&mut during));
        let ratio = with.as_secs_f64() / without.as_secs_f64();
        let verdict = if ratio <= 3.0 { "met" } else { "MISSED" };
        println!(
            "publish of 4 KiB, p99: alone {without:.0?}, during a collection {with:.0?} \
             ({} publishes in {taken:.2?}): {ratio:.1} times as long; goal, at most 3: {verdict}",
            during.len()
        );
        drop(store);
        std::fs::remove_dir_all(&directory)?;
    }
    Ok(())
}

/// Opens a store of the backend `redb` in `directory`.
fn open(runtime: &Runtime, directory: &Path) -> Result<Store> {
    let location = Location::of_path("redb", directory)?;
    Ok(runtime.block_on(cas::registry().open(&location))?)
}

/// Stores images without names.
async fn fill(store: &Store) -> Result<()> {
    let images = (0..IMAGES).map(|number| {
        let (store, image) = (store.clone(), data::image(number));
        tokio::spawn(async move { fill_one(&store, image).await })
    });
    for image in images.collect::<Vec<_>>() {
        image.await??;
    }
    Ok(store.content.flush().await?)
}

async fn fill_one(store: &Store, image: ImageBlobs) -> Result<()> {
    for blob in image.children.into_iter().chain([image.root]) {
        let size = blob.data.len() as u64;
        let descriptor = Descriptor::new(MediaType::OCI_LAYER, blob.digest, size);
        store
            .put(&descriptor, blob.data, Durability::Relaxed)
            .await?;
    }
    Ok(())
}

/// Publishes blobs while a collection removes all blobs that were in the store when it began.
/// Returns the time of each publish, and the time of the collection.
fn during(store: &Store, number: &mut u64) -> Result<(Vec<Duration>, Duration)> {
    let ended = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let collection = scope.spawn(|| {
            // In two days, no blob is too young to be collected.
            let later = SystemTime::now() + Duration::from_secs(2 * 24 * 60 * 60);
            let options = GcOptions::default().with_now(later);
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
    Blobs::put(&mut batch, &writer.digest().await?, &record, Expect::Absent)?;
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
