//! Measures how long a lookup takes in a store with 100,000 ACIs and 100,000 images. ACIs are
//! looked up by the beginning of a key and by a name. Images are looked up by a name and by the
//! beginning of a digest. The goal is 1 ms. The store `fs` has only 25,000 images, because it does
//! not read an `index.json` with 100,000 images.
//!
//! `cargo bench -p oci-cas-benches --bench resolve`. The environment variable `CAS_BENCH_ON` names
//! the directory for the stores.
#![allow(clippy::unwrap_used, missing_docs, reason = "a bench may panic")]

use std::fs;
use std::path::Path;
use std::time::{Duration, SystemTime};

use anyhow::Result;
use cas::aci::{AciInfo, AciStore, Key};
use cas::content::Durability;
use cas::records::Batch;
use cas::{Algorithm, Cas, Descriptor, Digest, Engines, Image, ImageRef, MediaType, Store};
use oci_cas_benches::measure::{nine, place, print_floors, time};
use serde_json::json;
use tokio::runtime::{Builder, Runtime};

const STORES: &[&str] = &[
    "fs",
    "redb",
    #[cfg(feature = "rocksdb")]
    "rocksdb",
];
/// Number of ACIs, and of images in stores other than `fs`.
const COUNT: u32 = 100_000;
const GOAL: Duration = Duration::from_millis(1);
/// Number of images in the store `fs`. Their `index.json` has about 6 MB; the store reads at most
/// 8 MiB.
const LAYOUT: u32 = 25_000;
/// Number of ACIs with one name.
const SHARING: u32 = 4;
/// Number of lookups in a round, unless the first lookup is slow.
const LOOKUPS: u32 = 100;
/// Number of digits of a prefix.
const DIGITS: usize = 12;
/// Number of ACIs in one batch.
const BATCH: u32 = 500;

fn main() -> Result<()> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let place = place()?;
    print_floors(place.path())?;
    for scheme in STORES {
        let root = place.path().join(scheme);
        let mut engines = Engines::default();
        (*scheme).clone_into(&mut engines.store);
        Cas::init_with(&root, engines, &cas::registry())?;
        let cas = runtime.block_on(Cas::open(&root))?;
        let images = if *scheme == "fs" { LAYOUT } else { COUNT };
        runtime.block_on(fill_acis(cas.store()))?;
        runtime.block_on(fill_images(cas.store(), images, scheme, &root))?;
        runtime.block_on(cas.close())?;
        let cas = runtime.block_on(Cas::open(&root))?;
        measure(&runtime, scheme, images, &cas)?;
        runtime.block_on(cas.close())?;
        fs::remove_dir_all(&root)?;
    }
    Ok(())
}

fn key(number: u32) -> Key {
    Key::new(Digest::of(Algorithm::Sha512, &number.to_be_bytes())).unwrap()
}

async fn fill_acis(store: &Store) -> Result<()> {
    let acis = AciStore::open(store.clone()).await?;
    for begin in (0..COUNT).step_by(BATCH as usize) {
        let mut batch = Batch::new();
        for number in begin..begin + BATCH {
            let name = format!("example.com/app{}", number / SHARING);
            let info = AciInfo::new(key(number), name, false, SystemTime::now(), 1, 0);
            acis.catalogue().write_aci_info(&mut batch, &info)?;
        }
        acis.catalogue().commit(&batch).await?;
    }
    Ok(())
}

fn data(number: u32) -> Vec<u8> {
    number.to_be_bytes().to_vec()
}

async fn fill_images(store: &Store, images: u32, scheme: &str, root: &Path) -> Result<()> {
    let mut entries = Vec::new();
    for number in 0..images {
        let content = data(number);
        let target = Descriptor::of(MediaType::OCI_LAYER, &content);
        let put = store.put(&target, content.into(), Durability::Relaxed);
        put.await?;
        let name = format!("docker.io/library/app:{number}");
        // In the store `fs`, each new name writes the whole `index.json`, so this function writes
        // the file once instead.
        if scheme == "fs" {
            let mut entry = serde_json::to_value(&target)?;
            entry["annotations"] = json!({"org.opencontainers.image.ref.name": name});
            entries.push(entry);
        } else {
            store
                .images
                .create(Image::new(name.parse()?, target))
                .await?;
        }
    }
    if scheme == "fs" {
        let index = json!({"schemaVersion": 2, "manifests": entries});
        fs::write(root.join("store/index.json"), index.to_string())?;
    }
    store.content.flush().await?;
    Ok(())
}

fn measure(runtime: &Runtime, scheme: &str, images: u32, cas: &Cas) -> Result<()> {
    let acis = runtime.block_on(AciStore::open(cas.store().clone()))?;
    report(scheme, "ACI by the beginning of its key", COUNT, |number| {
        let key = key(number);
        let prefix = format!("sha512-{}", &key.hex()[..DIGITS]);
        assert_eq!(runtime.block_on(acis.resolve_key(&prefix)).unwrap(), key);
    })?;
    report(scheme, "ACIs by name", COUNT, |number| {
        let name = format!("example.com/app{}", number / SHARING);
        let found = runtime.block_on(acis.resolve_name(&name)).unwrap();
        assert_eq!(found.len(), SHARING as usize);
    })?;
    report(scheme, "image by name", images, |number| {
        let found = runtime.block_on(cas.image(ImageRef::typed(format!("app:{number}"))));
        assert_eq!(found.unwrap().target.digest, Digest::sha256(&data(number)));
    })?;
    report(
        scheme,
        "image by the beginning of its digest",
        images,
        |number| {
            let digest = Digest::sha256(&data(number));
            let prefix = ImageRef::typed(&digest.hex()[..DIGITS]);
            let found = runtime.block_on(cas.image(prefix)).unwrap();
            assert_eq!(found.target.digest, digest);
        },
    )
}

/// Calls `look_up` with pseudo-random numbers below `among`. Prints how long a lookup takes: the
/// median, the shortest and the longest time of the rounds, and the time of the first lookup.
fn report(scheme: &str, what: &str, among: u32, look_up: impl Fn(u32)) -> Result<()> {
    let mut number: u32 = 0;
    let mut next = || {
        number = number.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        number % among
    };
    let (first, ()) = time(|| look_up(next()));
    // A lookup that takes this long reads everything. It is measured twice in a round.
    let lookups = if first > Duration::from_millis(20) {
        2
    } else {
        LOOKUPS
    };
    let taken = nine(|| {
        let (taken, ()) = time(|| (0..lookups).for_each(|_| look_up(next())));
        Ok(taken / lookups)
    })?;
    let goal = taken.verdict(GOAL);
    println!("{scheme}: {what} among {among}: {taken}, the first lookup {first:.1?}; {goal}");
    Ok(())
}
