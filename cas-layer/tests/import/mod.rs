//! Imports into the memory store: sources that are accepted, and sources that are refused. A
//! refused import leaves the store unchanged.

mod bad;
mod docker;
mod dropped;
mod good;
mod ingest;
mod many;
mod platforms;
mod referrers;

use cas_core::image::Reference;
use cas_core::records::Table;
use cas_core::testing::memory::MemoryStore;
use cas_core::{Digest, Platform, Store};
use cas_layer::import::{ImportOptions, import};

fn store() -> Store {
    MemoryStore::new().with_images()
}

fn named(name: &str) -> ImportOptions {
    ImportOptions::default().with_name(name.parse::<Reference>().unwrap())
}

fn for_platform(platform: &str) -> ImportOptions {
    ImportOptions::default().with_platforms(platform.parse::<Platform>().unwrap())
}

/// The blobs, their records, the ingests and the images of a store, without times.
#[derive(Debug, PartialEq)]
struct State {
    blobs: Vec<(Digest, u64)>,
    ingests: Vec<String>,
    images: Vec<(String, String)>,
    records: Vec<String>,
}

async fn state_of(store: &Store) -> State {
    let images = store.images.list(&[]).await.unwrap();
    let records = store
        .records
        .scan(Table::Blobs, "", None, 10_000)
        .await
        .unwrap();
    let blobs = store.content.list(None, 10_000).await.unwrap();
    let ingests = store.content.ingests().await.unwrap();
    State {
        blobs: blobs.iter().map(|blob| (blob.digest, blob.size)).collect(),
        ingests: ingests.into_iter().map(|ingest| ingest.key).collect(),
        images: images
            .iter()
            .map(|image| (image.name.to_string(), image.target.digest.to_string()))
            .collect(),
        records: records.into_iter().map(|record| record.key).collect(),
    }
}
