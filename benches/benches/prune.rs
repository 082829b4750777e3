//! Measures how long it takes to prune a cache of 10,000 images to half its bytes, and to record
//! in memory that an image is used.
//!
//! `cargo bench -p oci-cas-benches --bench prune`. The environment variable `CAS_BENCH_ON` names
//! the directory for the stores.
#![allow(missing_docs, reason = "a bench has no API")]

use std::collections::BTreeMap;
use std::fs;
use std::hint::black_box;
use std::path::Path;
use std::time::{Duration, SystemTime};

use anyhow::{Result, ensure};
use cas::content::Durability;
use cas::gc::{PruneOptions, prune};
use cas::image::Uses;
use cas::{Descriptor, Image, Location, MediaType, Store};
use oci_cas_benches::measure::{nine, place, print_floors, time, verdict};
use serde_json::json;
use tokio::runtime::{Builder, Runtime};
use workload::data;

const STORES: &[&str] = &[
    "fs",
    "redb",
    #[cfg(feature = "rocksdb")]
    "rocksdb",
];
const IMAGES: u64 = 10_000;
/// Number of images that share a layer.
const SHARING: u64 = 100;
/// Size of a layer in bytes.
const LAYER: usize = 4096;
/// Number of uses in a round.
const NOTES: u32 = 1_000_000;
const GOAL: Duration = Duration::from_secs(2);
const NOTE_GOAL: Duration = Duration::from_micros(1);

fn main() -> Result<()> {
    let runtime = Builder::new_current_thread().enable_time().build()?;
    let place = place()?;
    print_floors(place.path())?;
    for scheme in STORES {
        let mut most_short = 0;
        let taken = nine(|| {
            let directory = place.path().join(scheme);
            let store = runtime.block_on(open(scheme, &directory))?;
            let names = runtime.block_on(fill(&store, scheme, &directory))?;
            let (taken, short) = prune_half(&runtime, &store, &names)?;
            most_short = most_short.max(short);
            drop(store);
            fs::remove_dir_all(&directory)?;
            Ok(taken)
        })?;
        let exact = verdict(most_short < LAYER as u64);
        println!(
            "{scheme}: {IMAGES} images pruned to half their bytes: {taken}; {}; bytes removed \
             beyond half, in the worst round: {most_short}, goal below {LAYER} {exact}",
            taken.verdict(GOAL)
        );
    }
    note(&runtime, place.path())
}

async fn open(scheme: &str, directory: &Path) -> Result<Store> {
    let location = Location::of_path(scheme, directory)?;
    Ok(cas::registry().open(&location).await?)
}

/// Stores images of two layers. [`SHARING`] images in a row share one of their layers. Returns the
/// names of the images.
async fn fill(store: &Store, scheme: &str, directory: &Path) -> Result<Vec<String>> {
    let mut images = Vec::new();
    for number in 0..IMAGES {
        let shared = data::bytes(IMAGES + number / SHARING, LAYER);
        let shared = match number % SHARING {
            0 => put(store, MediaType::OCI_LAYER, shared).await?,
            _ => Descriptor::of(MediaType::OCI_LAYER, &shared),
        };
        let (store, name) = (store.clone(), format!("docker.io/library/app:{number}"));
        let target = tokio::spawn(async move { image(&store, number, shared).await });
        images.push((name, target));
    }
    let (mut names, mut entries) = (Vec::new(), Vec::new());
    for (name, target) in images {
        let target = target.await??;
        let mut entry = serde_json::to_value(&target)?;
        entry["annotations"] = json!({"org.opencontainers.image.ref.name": name});
        entries.push(entry);
        // In the store `fs`, each new name writes the whole `index.json`, so this function writes
        // the file once instead.
        if scheme != "fs" {
            store
                .images
                .create(Image::new(name.parse()?, target))
                .await?;
        }
        names.push(name);
    }
    if scheme == "fs" {
        let index = json!({"schemaVersion": 2, "manifests": entries});
        fs::write(directory.join("index.json"), index.to_string())?;
    }
    store.content.flush().await?;
    Ok(names)
}

async fn image(store: &Store, number: u64, shared: Descriptor) -> cas::Result<Descriptor> {
    let own = put(store, MediaType::OCI_LAYER, data::bytes(number, LAYER)).await?;
    let config = json!({"os": "linux", "architecture": "amd64", "author": number.to_string()});
    let config = put(
        store,
        MediaType::OCI_CONFIG,
        config.to_string().into_bytes(),
    )
    .await?;
    let manifest = json!({"schemaVersion": 2, "mediaType": MediaType::OCI_MANIFEST,
        "config": config, "layers": [shared, own]});
    let manifest = manifest.to_string().into_bytes();
    put(store, MediaType::OCI_MANIFEST, manifest).await
}

async fn put(store: &Store, media_type: MediaType, data: Vec<u8>) -> cas::Result<Descriptor> {
    let descriptor = Descriptor::of(media_type, &data);
    let put = store.put(&descriptor, data.into(), Durability::Relaxed);
    put.await.map(|_| descriptor)
}

/// Prunes to half the bytes. Returns how long it takes, and how many bytes more than necessary are
/// removed.
fn prune_half(runtime: &Runtime, store: &Store, names: &[String]) -> Result<(Duration, u64)> {
    // In ten days, nothing is too young to be collected.
    let now = SystemTime::now() + Duration::from_secs(10 * 24 * 60 * 60);
    let used = |number: u64| now - Duration::from_secs(number.wrapping_mul(7919) % IMAGES);
    let uses: BTreeMap<String, SystemTime> = (0..)
        .zip(names)
        .map(|(number, name)| (name.clone(), used(number)))
        .collect();
    let half = runtime.block_on(size(store))? / 2;
    let options = PruneOptions::default().with_now(now).with_max_size(half);
    let (taken, pruned) = time(|| runtime.block_on(prune(store, &[], &uses, &options)));
    pruned?;
    let after = runtime.block_on(size(store))?;
    ensure!(
        after <= half,
        "expected at most {half} bytes after the prune, found {after}"
    );
    Ok((taken, half - after))
}

async fn size(store: &Store) -> Result<u64> {
    let (mut sum, mut after) = (0, None);
    loop {
        let page = store.content.list(after.as_ref(), 1000).await?;
        sum += page.iter().map(|blob| blob.size).sum::<u64>();
        match page.last() {
            Some(last) => after = Some(last.digest),
            None => return Ok(sum),
        }
    }
}

/// Measures how long it takes to record a use in memory.
fn note(runtime: &Runtime, place: &Path) -> Result<()> {
    let store = runtime.block_on(open("redb", &place.join("notes")))?;
    let uses = Uses::new(store.records.clone(), store.images.clone())?;
    let names = (0..1000).map(|number| format!("docker.io/library/app:{number}").parse());
    let names = names.collect::<cas::Result<Vec<_>>>()?;
    let each = nine(|| {
        let (taken, ()) = time(|| {
            for name in names.iter().cycle().take(NOTES as usize) {
                uses.note(black_box(name));
            }
        });
        Ok(taken / NOTES)
    })?;
    println!("recording a use: {each}; {}", each.verdict(NOTE_GOAL));
    Ok(())
}
