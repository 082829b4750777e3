//! Stores and ACIs for these tests.

use std::io::{Cursor, Read};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use backend_fs::FsStore;
use backend_redb::RedbStore;
use cas_aci::{AciStore, Key, WriteOptions};
use cas_core::gc::{GcOptions, Removed, collect};
use cas_core::image::RecordImages;
use cas_core::pool::wait;
use cas_core::records::{Lease, UNLEASED_TTL};
use cas_core::testing::memory::MemoryStore;
use cas_core::testing::strict::StrictStore;
use cas_core::{Algorithm, Digest, Store};
use tempfile::TempDir;
use testkit::archive::Tar;

/// Runs `test` on an empty store of each kind: in memory, without transactions, in files, in redb.
pub(crate) fn on_every_store(test: impl Fn(Store)) {
    test(MemoryStore::new().with_images());
    test(strict());
    let directory = TempDir::new().unwrap();
    test(FsStore::open(directory.path().join("fs")).unwrap().store());
    test(
        RedbStore::open(directory.path().join("redb"))
            .unwrap()
            .store(),
    );
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

/// Returns the text of a manifest with more members, each of which begins with a comma.
pub(crate) fn manifest(name: &str, more: &str) -> String {
    format!(r#"{{"acKind":"ImageManifest","acVersion":"0.8.11","name":"{name}"{more}}}"#)
}

/// Returns the text of a manifest with the label `version`.
pub(crate) fn versioned(name: &str, version: &str) -> String {
    let labels = format!(r#","labels":[{{"name":"version","value":"{version}"}}]"#);
    manifest(name, &labels)
}

/// Returns an uncompressed ACI with this manifest and one file.
pub(crate) fn aci(manifest: &str) -> Vec<u8> {
    let tar = Tar::new().file("manifest", manifest).dir("rootfs");
    tar.file("rootfs/hello", "hello\n").end()
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

/// Collects garbage two days from now, when nothing is young any more.
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
