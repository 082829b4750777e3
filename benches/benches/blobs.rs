//! How long it takes to list 100,000 blobs joined with their records, as criterion curves for every
//! compiled backend. The goal is 300 ms.
//!
//! `cargo bench --bench blobs`. The environment variable `CAS_BENCH_ON` sets the directory.
#![allow(
    clippy::unwrap_used,
    missing_docs,
    reason = "a bench may stop anywhere"
)]

use cas::content::Durability;
use cas::{Descriptor, Location, MediaType, Store, blob};
use criterion::{Criterion, criterion_group, criterion_main};
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

fn blobs(criterion: &mut Criterion) {
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    let mut group = criterion.benchmark_group("blobs");
    group.sample_size(10);
    for name in STORES {
        let directory = match std::env::var_os("CAS_BENCH_ON") {
            Some(on) => tempfile::tempdir_in(on),
            None => tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()),
        };
        let directory = directory.unwrap();
        let location = Location::of_path(name, &directory.path().join("store")).unwrap();
        let store = runtime.block_on(cas::registry().open(&location)).unwrap();
        runtime.block_on(fill(&store));
        group.bench_function(*name, |bench| {
            bench.iter(|| {
                let list = runtime.block_on(blob::list(&store)).unwrap();
                assert_eq!((list.blobs.len(), list.problems.len()), (100_000, 0));
            });
        });
    }
    group.finish();
}

async fn fill(store: &Store) {
    let images = (0..IMAGES).map(|number| {
        let (store, image) = (store.clone(), data::image(number));
        tokio::spawn(async move { fill_one(&store, image).await })
    });
    for image in images.collect::<Vec<_>>() {
        image.await.unwrap();
    }
    store.content.flush().await.unwrap();
}

async fn fill_one(store: &Store, image: ImageBlobs) {
    for blob in image.children.into_iter().chain([image.root]) {
        let size = blob.data.len() as u64;
        let descriptor = Descriptor::new(MediaType::OCI_LAYER, blob.digest, size);
        let put = store.put(&descriptor, blob.data, Durability::Relaxed);
        put.await.unwrap();
    }
}

criterion_group!(benches, blobs);
criterion_main!(benches);
