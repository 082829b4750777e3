//! Blobs whose entries or rows in table files are damaged, so that RocksDB finds a wrong checksum:
//! a job that has their bytes stores them again, and a repair copies what was stored again.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "helpers of tests")]

use std::fs;
use std::path::Path;

use backend_rocksdb::{RocksOpener, RocksStore};
use bytes::Bytes;
use cas_core::check::Problem;
use cas_core::content::Durability;
use cas_core::pool::wait;
use cas_core::records::Batch;
use cas_core::{ContentExt, Descriptor, Digest, ErrorKind, MediaType, Opener};

/// Sizes of blobs without bytes, with bytes in the entry, in a row in a table file, in a row in a
/// blob file, and in many rows.
const SIZES: [usize; 5] = [0, 487, 701, 20_003, 2_000_003];

/// Returns the bytes of a blob.
fn data(size: usize) -> Bytes {
    let text = format!("{size} ").into_bytes();
    text.into_iter().cycle().take(size).collect()
}

/// Stores a blob and its record, as a job does that has the bytes of the blob.
fn put(store: &RocksStore, size: usize) {
    let data = data(size);
    let descriptor = Descriptor::of(MediaType::BYTES, &data);
    wait(store.store().put(&descriptor, data, Durability::Full)).unwrap();
}

fn is_intact(store: &RocksStore, size: usize) -> bool {
    wait(store.content().is_intact(&Digest::sha256(&data(size)))).unwrap()
}

/// Flips a bit in each place of the table files that has these bytes. The store must be closed.
fn flip(path: &Path, bytes: &[u8]) {
    let mut flipped = 0;
    for file in fs::read_dir(path.join("db")).unwrap() {
        let file = file.unwrap().path();
        if file.extension().is_none_or(|extension| extension != "sst") {
            continue;
        }
        let mut data = fs::read(&file).unwrap();
        let windows = data.windows(bytes.len()).enumerate();
        let found = windows.filter(|(_, window)| *window == bytes);
        let places: Vec<usize> = found.map(|(at, _)| at).collect();
        places.iter().for_each(|at| data[*at] ^= 1);
        fs::write(&file, data).unwrap();
        flipped += places.len();
    }
    assert!(flipped > 0, "no table file has these bytes");
}

/// Examines the store. Returns the problems, and whether they were repaired.
fn examine(path: &Path, repair: bool) -> Vec<(Problem, bool)> {
    let location = format!("rocksdb://{}", path.display()).parse().unwrap();
    let found = wait(RocksOpener.examine(&location, repair)).unwrap();
    let found = found.into_iter();
    found.map(|one| (one.problem, one.repaired)).collect()
}

/// Checks that the database is reported as damaged until a repair, which keeps these blobs.
fn is_repaired(path: &Path, sizes: &[usize]) {
    for repair in [false, true] {
        let found = examine(path, repair);
        assert_eq!(found, [(Problem::DatabaseDamaged, repair)]);
    }
    assert_eq!(examine(path, false), []);
    let store = RocksStore::open(path).unwrap();
    for size in sizes {
        assert!(is_intact(&store, *size), "{size} after the repair");
    }
}

#[test]
fn blobs_whose_entries_cannot_be_read_are_stored_again_and_copied_by_a_repair() {
    let temp = tempfile::tempdir().unwrap();
    let store = RocksStore::open(temp.path()).unwrap();
    SIZES.iter().for_each(|size| put(&store, *size));
    drop(store);
    for size in &SIZES[1..] {
        // An entry begins with the size.
        flip(temp.path(), &(*size as u64).to_le_bytes());
    }
    let store = RocksStore::open(temp.path()).unwrap();
    for size in SIZES {
        let digest = Digest::sha256(&data(size));
        let error = wait(store.content().open(&digest)).err().expect("damaged");
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{size}: {error}");
        assert!(error.to_string().contains("fsck --repair"), "{error}");
        put(&store, size);
        assert!(is_intact(&store, size), "{size}");
    }
    drop(store);
    let store = RocksStore::open(temp.path()).unwrap();
    for size in SIZES {
        assert!(is_intact(&store, size), "{size} after it was flushed");
    }
    drop(store);
    is_repaired(temp.path(), &SIZES);
}

#[test]
fn blobs_whose_entries_cannot_be_read_are_removed_together() {
    let temp = tempfile::tempdir().unwrap();
    let store = RocksStore::open(temp.path()).unwrap();
    let content = store.content();
    let digests: Vec<Digest> = (300..310)
        .map(|size| wait(content.put(data(size))).unwrap())
        .collect();
    drop((content, store));
    flip(temp.path(), &300_u64.to_le_bytes());
    let content = RocksStore::open(temp.path()).unwrap().content();
    let stat = |digest: &Digest| wait(content.stat(digest)).unwrap();
    let seen = digests.iter().map(|digest| stat(digest).unwrap());
    let seen: Vec<_> = seen.map(|stat| (stat.digest, stat.version)).collect();
    assert!(wait(content.remove_versions(&seen, &Batch::new())).unwrap());
    assert!(digests.iter().all(|digest| stat(digest).is_none()));
}

#[test]
fn damaged_rows_are_stored_again_and_their_table_is_replaced_by_a_repair() {
    const ROW: usize = SIZES[2];
    const NEW: usize = 3_000_001;
    let temp = tempfile::tempdir().unwrap();
    let store = RocksStore::open(temp.path()).unwrap();
    put(&store, ROW);
    drop(store);
    assert_eq!(examine(temp.path(), false), []);
    flip(temp.path(), &data(ROW)[..16]);
    let store = RocksStore::open(temp.path()).unwrap();
    // The rows of this blob follow those in the damaged block.
    put(&store, NEW);
    assert!(is_intact(&store, NEW));
    assert!(!is_intact(&store, ROW));
    put(&store, ROW);
    assert!(is_intact(&store, ROW));
    drop(store);
    is_repaired(temp.path(), &[ROW, NEW]);
}
