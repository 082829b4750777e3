//! The laws for compositions of `fs` stores. A composition promises what both members promise
//! about crashes, other processes and resuming.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use backend_fs::FsStore;
use bytes::Bytes;
use cas_core::compose::{Counters, by_size, observe};
use cas_core::{ContentExt, Result, Store, pool};

/// Threshold between the members in bytes. It is so small that many laws use both members.
const THRESHOLD: u64 = 4_000;

fn sized(dir: PathBuf) -> Result<Store> {
    let small = FsStore::open(dir.join("small"))?.store();
    let large = FsStore::open(dir.join("large"))?.content();
    Ok(by_size(small, large, THRESHOLD))
}

fn observed(dir: PathBuf) -> Result<Store> {
    let store = FsStore::open(dir)?.store();
    Ok(observe(store, Arc::new(Counters::new())))
}

conformance::content_store!(
    sized_content,
    |dir| async move { sized(dir).map(|store| store.content) },
    backend_fs::GAPS
);
conformance::records!(
    sized_records,
    |dir| async move { sized(dir).map(|store| store.records) },
    backend_fs::GAPS
);
conformance::image_store!(
    sized_images,
    |dir| async move { sized(dir).map(|store| store.images) },
    backend_fs::GAPS
);
conformance::content_store!(
    observed_content,
    |dir| async move { observed(dir).map(|store| store.content) },
    backend_fs::GAPS
);

/// A truncated blob in one member is replaced by an intact blob in the other member.
#[test]
fn a_damaged_blob_of_an_older_threshold_is_replaced() {
    let scratch = tempfile::tempdir().unwrap();
    let open = |threshold| {
        let small = FsStore::open(scratch.path().join("small")).unwrap().store();
        let large = FsStore::open(scratch.path().join("large")).unwrap();
        by_size(small, large.content(), threshold).content
    };
    let data = Bytes::from(vec![7; 10_000]);
    for (before, member, after) in [(64_000, "small", 100), (100, "large", 64_000)] {
        let digest = pool::wait(open(before).put(data.clone())).unwrap();
        let place = format!("{member}/blobs/sha256/{}", digest.hex());
        let file = scratch.path().join(place);
        fs::OpenOptions::new()
            .write(true)
            .open(&file)
            .and_then(|file| file.set_len(1))
            .unwrap();
        let store = open(after);
        assert_eq!(pool::wait(store.put(data.clone())).unwrap(), digest);
        assert!(!file.exists(), "the damaged blob is removed");
        let reader = pool::wait(store.open(&digest)).unwrap().unwrap();
        assert_eq!(pool::wait(reader.read_at(0, 20_000)).unwrap(), data);
        assert!(pool::wait(store.remove(&digest)).unwrap());
    }
}
