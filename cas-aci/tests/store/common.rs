//! Stores and ACIs for these tests.

use std::io::{Cursor, Read};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use cas_aci::{AciStore, Key, WriteOptions};
use cas_core::gc::{GcOptions, Removed, collect};
use cas_core::image::RecordImages;
use cas_core::pool::wait;
use cas_core::records::{Lease, UNLEASED_TTL};
use cas_core::registry::Opener;
use cas_core::testing::memory::MemoryStore;
use cas_core::testing::strict::StrictStore;
use cas_core::{Algorithm, Digest, Location, Store, unique};
use tempfile::TempDir;
pub(crate) use testkit::aci::{aci, manifest, versioned};

/// Runs `test` on an empty store of each kind: in memory, without transactions, and of each backend
/// of this build.
pub(crate) fn on_every_store(test: impl Fn(Store)) {
    test(memory());
    test(strict());
    let directory = TempDir::new().unwrap();
    for scheme in cas::registry().openers().map(Opener::scheme) {
        eprintln!("on {scheme}");
        match scheme {
            "s3" => bucket().into_iter().for_each(&test),
            engine => test(open_engine(engine, &directory.path().join(engine))),
        }
    }
}

/// Opens the store of an engine at a path.
pub(crate) fn open_engine(engine: &str, path: &Path) -> Store {
    let location = Location::of_path(engine, path).unwrap();
    wait(cas::registry().open(&location)).unwrap()
}

/// Returns a store in a new bucket, if there is an S3 service. The bucket is not shared, because
/// the time of a list grows with all keys of a bucket.
fn bucket() -> Option<Store> {
    let host = testkit::s3::service()?;
    let bucket = unique::key("aci");
    testkit::s3::make_bucket(host, &bucket);
    let location = format!("s3://{bucket}/store?endpoint=http://{host}").parse();
    Some(wait(cas::registry().open(&location.unwrap())).unwrap())
}

pub(crate) fn memory() -> Store {
    MemoryStore::new().with_images()
}

/// Returns a store in memory without transactions.
pub(crate) fn strict() -> Store {
    let store = Arc::new(StrictStore::new());
    Store {
        content: store.clone(),
        records: store.clone(),
        images: Arc::new(RecordImages::new(store)),
    }
}

pub(crate) fn open(store: &Store) -> AciStore {
    wait(AciStore::open(store.clone())).unwrap()
}

/// Returns the key that an uncompressed ACI must have.
pub(crate) fn key_of(aci: &[u8]) -> Key {
    Key::new(Digest::of(Algorithm::Sha512, aci)).unwrap()
}

pub(crate) fn write(store: &AciStore, aci: &[u8]) -> Key {
    write_with(store, aci, WriteOptions::default())
}

pub(crate) fn write_with(store: &AciStore, aci: &[u8], options: WriteOptions) -> Key {
    wait(store.write_aci_with(Cursor::new(aci.to_vec()), options)).unwrap()
}

/// Returns the uncompressed archive that the store returns for a key.
pub(crate) fn read(store: &AciStore, key: &str) -> Vec<u8> {
    let mut archive = Vec::new();
    let mut reader = wait(store.read_stream(key)).unwrap();
    reader.read_to_end(&mut archive).unwrap();
    archive
}

/// Collects garbage as of two days from now, when nothing is protected by its age any more.
pub(crate) fn collect_later(store: &Store) -> Removed {
    let now = SystemTime::now() + 2 * UNLEASED_TTL;
    wait(collect(store, &[], &GcOptions::default().with_now(now))).unwrap()
}

/// Returns the number of blobs in the store.
pub(crate) fn blobs(store: &Store) -> usize {
    wait(store.content.list(None, 100)).unwrap().len()
}

/// Waits until what a dropped job left is removed in the background.
pub(crate) fn wait_until(what: &str, is_so: impl Fn() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < Duration::from_secs(60), "{what}");
        std::thread::yield_now();
    }
}

/// Waits until the store has neither ingests nor leases of a job.
pub(crate) fn wait_until_jobs_end(store: &Store) {
    let ended = |lease: &Lease| lease.expires_at.is_none();
    wait_until("a job has left something", || {
        let leases = wait(store.leases().list()).unwrap();
        let ingests = wait(store.content.ingests()).unwrap();
        ingests.is_empty() && leases.iter().all(|(_, lease, _)| ended(lease))
    });
}
