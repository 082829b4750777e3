//! Removing many blobs in one call leaves the same file contents as removing them one by one.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::path::Path;

use backend_redb::RedbStore;
use cas_core::content::{Stat, Version};
use cas_core::gc::{GcOptions, collect};
use cas_core::records::Batch;
use cas_core::{ContentExt, ContentStore, Digest, Result, pool::wait};
use redb::{ReadableDatabase, ReadableTableMetadata, TableHandle};

/// Number of small blobs. Most are removed in one call.
const BLOBS: usize = 2_500;
/// Size in bytes of a blob with more rows than one transaction removes.
const LARGE: usize = 24 << 20;

/// Stores numbered blobs and one large blob. Removes every fifth numbered blob and stores it again.
///
/// Returns the blobs to remove: two of every three numbered blobs (some with an old version, some
/// twice), the large blob, and some that do not exist.
async fn fill(content: &dyn ContentStore) -> Result<Vec<(Digest, Version)>> {
    let mut doomed = Vec::new();
    for number in 0..BLOBS {
        // Some blobs are stored inline, the others in rows.
        let data = bytes::Bytes::from(number.to_le_bytes().repeat(1 + 100 * (number % 2)));
        let digest = content.put(data.clone()).await?;
        let stat = content.stat(&digest).await?.unwrap();
        if number % 5 == 0 {
            content.remove(&digest).await?;
            content.put(data).await?;
        }
        let times = number % 3;
        doomed.extend(std::iter::repeat_n((digest, stat.version), times));
        let absent = Digest::sha256(&number.to_be_bytes());
        doomed.push((absent, stat.version));
    }
    let large = content.put(vec![1; LARGE].into()).await?;
    let stat = content.stat(&large).await?.unwrap();
    doomed.insert(BLOBS / 2, (large, stat.version));
    Ok(doomed)
}

/// Closes the store. Returns its blobs, and the number of entries of each table.
fn contents(path: &Path, store: RedbStore) -> (Vec<Stat>, Vec<(String, u64)>) {
    let blobs = wait(store.content().list(None, 2 * BLOBS)).unwrap();
    drop(store);
    let db = redb::Database::open(path.join("cas.redb")).unwrap();
    let tx = db.begin_read().unwrap();
    let tables = tx.list_tables().unwrap();
    let mut counts: Vec<(String, u64)> = tables
        .map(|table| (table.name().to_owned(), table))
        .map(|(name, table)| (name, tx.open_untyped_table(table).unwrap().len().unwrap()))
        .collect();
    counts.sort();
    (blobs, counts)
}

#[test]
fn bulk_removal_equals_single_removals() {
    let memory = tempfile::tempdir_in("/dev/shm");
    let temp = memory.or_else(|_| tempfile::tempdir()).unwrap();
    let results = ["each", "bulk"].map(|how| {
        let path = temp.path().join(how);
        let store = RedbStore::open(&path).unwrap();
        let content = store.content();
        wait(async {
            let doomed = fill(&*content).await.unwrap();
            if how == "bulk" {
                content
                    .remove_versions(&doomed, &Batch::new())
                    .await
                    .unwrap();
            } else {
                for (digest, version) in &doomed {
                    content.remove_version(digest, *version).await.unwrap();
                }
            }
            content.flush().await.unwrap();
        });
        drop(content);
        contents(&path, store)
    });
    let [each, bulk] = results;
    assert!(!each.0.is_empty() && each.0.len() < BLOBS);
    let count = |name| each.1.iter().find(|(table, _)| table == name).unwrap().1;
    let in_rows = each.0.iter().filter(|stat| stat.size > 512).count();
    assert_eq!(count("rows"), in_rows as u64);
    assert_eq!(count("doomed"), 0);
    assert!(
        each == bulk,
        "bulk and single removals leave different contents"
    );
}

/// A collection that is killed between its removals and its compaction has not truncated the file.
/// The next collection does, although it finds nothing to remove.
#[test]
fn the_space_of_a_killed_collection_is_given_back_by_the_next() {
    let temp = tempfile::tempdir().unwrap();
    let [killed, next] = ["killed", "next"].map(|name| temp.path().join(name));
    let store = RedbStore::open(&killed).unwrap();
    let content = store.content();
    let blobs: Vec<Digest> = (0..8)
        .map(|seed| wait(content.put(vec![seed; 2 << 20].into())).unwrap())
        .collect();
    for digest in &blobs[..7] {
        wait(content.remove(digest)).unwrap();
    }
    wait(content.flush()).unwrap();
    std::fs::create_dir(&next).unwrap();
    std::fs::copy(killed.join("cas.redb"), next.join("cas.redb")).unwrap();
    let store = RedbStore::open(&next).unwrap();
    let removed = wait(collect(&store.store(), &[], &GcOptions::default())).unwrap();
    assert!(removed.is_empty(), "{removed:?}");
    let size = std::fs::metadata(next.join("cas.redb")).unwrap().len();
    assert!(size < 4 << 20, "{size} bytes are left of one blob of 2 MiB");
    let left = wait(store.content().open(&blobs[7])).unwrap().unwrap();
    let data = wait(left.read_at(0, 2 << 20)).unwrap();
    assert!(data == vec![7; 2 << 20]);
}
