//! Freed disk space, on every engine that keeps a store in a directory.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test may fail anywhere"
)]

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use cas::backend::ContentStore;
use cas::backend::pool::wait;
use cas::{ContentExt, Digest, Location, Store};

const ENGINES: &[&str] = &[
    #[cfg(feature = "fs")]
    "fs",
    #[cfg(feature = "redb")]
    "redb",
    #[cfg(feature = "rocksdb")]
    "rocksdb",
];

fn open(engine: &str, path: &Path) -> Store {
    wait(cas::registry().open(&Location::of_path(engine, path).unwrap())).unwrap()
}

/// Returns the disk usage of a directory, in bytes.
fn taken(path: &Path) -> u64 {
    let entries = fs::read_dir(path).unwrap().map(|entry| entry.unwrap());
    let size = |entry: fs::DirEntry| {
        if entry.file_type().unwrap().is_dir() {
            taken(&entry.path())
        } else {
            entry
                .metadata()
                .map_or(0, |metadata| metadata.blocks() * 512)
        }
    };
    entries.map(size).sum()
}

/// Returns bytes that no other blob has.
fn data(number: u32, length: usize) -> Vec<u8> {
    number.to_le_bytes().repeat(length / 4)
}

fn fill(content: &dyn ContentStore, blobs: u32, length: usize) -> Vec<Digest> {
    let put = |number| wait(content.put(data(number, length).into())).unwrap();
    (0..blobs).map(put).collect()
}

fn remove(content: &dyn ContentStore, digest: &Digest) {
    let stat = wait(content.stat(digest)).unwrap().unwrap();
    assert!(wait(content.remove_version(digest, stat.version)).unwrap());
}

/// Checks that all space is freed except what an empty store uses.
fn gives_back(engine: &str, blobs: u32, length: usize) {
    let temp = tempfile::tempdir().unwrap();
    let store = open(engine, temp.path());
    let content = &*store.content;
    // RocksDB allocates megabytes for its log with the first write.
    remove(content, &fill(content, 1, 4)[0]);
    let empty = taken(temp.path());
    let digests = fill(content, blobs, length);
    let full = taken(temp.path()) - empty;
    for digest in digests.iter().skip(1).step_by(2) {
        remove(content, digest);
    }
    wait(content.flush()).unwrap();
    // Compaction succeeds although a reader is open.
    let reader = wait(content.open(&digests[0])).unwrap().unwrap();
    wait(content.compact()).unwrap();
    let half = taken(temp.path()) - empty;
    assert!(
        half < full * 7 / 10,
        "{engine}: {half} of {full} bytes are left"
    );
    assert!(wait(reader.read_at(0, length)).unwrap() == data(0, length));
    for (number, digest) in (0..blobs).zip(&digests).step_by(2) {
        let reader = wait(content.open(digest)).unwrap().unwrap();
        assert!(wait(reader.read_at(0, length)).unwrap() == data(number, length));
    }
    for digest in digests.iter().step_by(2) {
        remove(content, digest);
    }
    wait(content.compact()).unwrap();
    let left = taken(temp.path()).saturating_sub(empty);
    assert!(
        left < full / 10,
        "{engine}: {left} of {full} bytes are left of nothing"
    );
}

#[test]
fn a_compaction_returns_freed_space_to_the_file_system() {
    for engine in ENGINES {
        gives_back(engine, 40, 1 << 20);
        gives_back(engine, 4000, 4 << 10);
    }
}

#[test]
fn a_store_that_is_filled_and_emptied_does_not_grow() {
    for engine in ENGINES {
        let temp = tempfile::tempdir().unwrap();
        let store = open(engine, temp.path());
        let mut first = 0;
        for _ in 0..6 {
            let digests = fill(&*store.content, 20, 1 << 20);
            let full = taken(temp.path());
            first = if first == 0 { full } else { first };
            assert!(full <= first * 2, "{engine}: grew from {first} to {full}");
            digests
                .iter()
                .for_each(|digest| remove(&*store.content, digest));
            wait(store.content.flush()).unwrap();
            wait(store.content.compact()).unwrap();
        }
    }
}
