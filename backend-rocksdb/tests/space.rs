//! Space that comes back to the file system.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "helpers of tests")]

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use backend_rocksdb::RocksStore;
use cas_core::{ContentExt, ContentStore, Digest, pool::wait};

/// Bytes of the disk that the database takes.
fn length(dir: &Path) -> u64 {
    let files = std::fs::read_dir(dir.join("db")).unwrap();
    let blocks = files.filter_map(|file| Some(file.ok()?.metadata().ok()?.blocks()));
    blocks.sum::<u64>() * 512
}

/// Bytes that no other blob has.
fn data(number: u32, length: usize) -> Vec<u8> {
    number.to_le_bytes().repeat(length / 4)
}

fn fill(store: &dyn ContentStore, blobs: u32, length: usize) -> Vec<Digest> {
    let put = |number| wait(store.put(data(number, length).into())).unwrap();
    (0..blobs).map(put).collect()
}

fn remove(store: &dyn ContentStore, digest: &Digest) {
    let stat = wait(store.stat(digest)).unwrap().unwrap();
    assert!(wait(store.remove_version(digest, stat.version)).unwrap());
}

#[test]
fn a_compaction_gives_back_what_removals_freed() {
    for (blobs, bytes) in [(40, 1 << 20), (4000, 4 << 10)] {
        let temp = tempfile::tempdir().unwrap();
        let store = RocksStore::open(temp.path()).unwrap();
        let content = store.content();
        let digests = fill(&*content, blobs, bytes);
        let full = length(temp.path());
        for digest in digests.iter().skip(1).step_by(2) {
            remove(&*content, digest);
        }
        wait(content.flush()).unwrap();
        // A reader of before is no reason to fail.
        let reader = wait(content.open(&digests[0])).unwrap().unwrap();
        wait(content.compact()).unwrap();
        let half = length(temp.path());
        assert!(half < full * 7 / 10, "{half} of {full} bytes are left");
        assert!(wait(reader.read_at(0, bytes)).unwrap() == data(0, bytes));
        for (number, digest) in (0..blobs).zip(&digests).step_by(2) {
            let reader = wait(content.open(digest)).unwrap().unwrap();
            assert!(wait(reader.read_at(0, bytes)).unwrap() == data(number, bytes));
        }
        for digest in digests.iter().step_by(2) {
            remove(&*content, digest);
        }
        wait(content.compact()).unwrap();
        assert!(length(temp.path()) < full / 10, "of nothing");
    }
}

#[test]
fn a_store_that_is_filled_and_emptied_does_not_grow() {
    let temp = tempfile::tempdir().unwrap();
    let store = RocksStore::open(temp.path()).unwrap();
    let content = store.content();
    let mut first = 0;
    for round in 0..6 {
        let digests = fill(&*content, 20, 1 << 20);
        digests.iter().for_each(|digest| remove(&*content, digest));
        wait(content.flush()).unwrap();
        if round == 0 {
            first = length(temp.path());
        }
    }
    assert!(length(temp.path()) <= first * 3 / 2, "grew beyond {first}");
}
