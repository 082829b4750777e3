//! Measures how long it takes to list 100,000 blobs joined with their records, in the stores `fs`
//! and `redb`, and in `rocksdb` if the feature `rocksdb` is enabled. The goal is 300 ms.
//!
//! `cargo bench -p oci-cas-benches --bench blobs`. The environment variable `CAS_BENCH_ON` names
//! the directory for the stores.
#![allow(missing_docs, reason = "a bench has no API")]

use std::time::Duration;

use anyhow::Result;
use cas::content::Durability;
use cas::{Descriptor, Location, MediaType, Store, blob};
use oci_cas_benches::measure::{nine, place, print_floors, time};
use tokio::runtime::Builder;
use workload::{ImageBlobs, data};

const STORES: &[&str] = &[
    "fs",
    "redb",
    #[cfg(feature = "rocksdb")]
    "rocksdb",
];
/// Number of images, of a hundred blobs each.
const IMAGES: u32 = 1000;
const GOAL: Duration = Duration::from_millis(300);

fn main() -> Result<()> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let place = place()?;
    print_floors(place.path())?;
    for name in STORES {
        let directory = place.path().join(name);
        let location = Location::of_path(name, &directory)?;
        let store = runtime.block_on(cas::registry().open(&location))?;
        runtime.block_on(fill(&store))?;
        let taken = nine(|| {
            let (taken, list) = time(|| runtime.block_on(blob::list(&store)));
            let list = list?;
            assert_eq!((list.blobs.len(), list.problems.len()), (100_000, 0));
            Ok(taken)
        })?;
        println!(
            "{name}: list of 100,000 blobs: {taken}; {}",
            taken.verdict(GOAL)
        );
        drop(store);
        std::fs::remove_dir_all(&directory)?;
    }
    Ok(())
}

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

async fn fill_one(store: &Store, image: ImageBlobs) -> cas::Result<()> {
    for blob in image.children.into_iter().chain([image.root]) {
        let size = blob.data.len() as u64;
        let descriptor = Descriptor::new(MediaType::OCI_LAYER, blob.digest, size);
        let put = store.put(&descriptor, blob.data, Durability::Relaxed);
        put.await?;
    }
    Ok(())
}
