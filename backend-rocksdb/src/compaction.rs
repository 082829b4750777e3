//! Returns the space of removed blobs to the file system. A row is a piece of a blob. Each of
//! RocksDB's blob files contains rows of many blobs. When a blob is removed, its rows stay in the
//! blob files as dead rows. RocksDB deletes a blob file whose rows are all dead. On request,
//! RocksDB also writes the live rows of its oldest blob files to new files, so that all rows in the
//! old files are dead.

use cas_core::Result;
use cas_kv::Space;
use rocksdb::{BottommostLevelCompaction, CompactOptions};

use crate::database::Database;
use crate::error::classify;
use crate::family::{self, ROWS};
use crate::options::PASSES;

/// The property with the bytes in blob files, live and dead.
const TOTAL: &str = "rocksdb.live-blob-file-size";
/// The property with the bytes of dead rows in blob files that compactions have found so far.
const DEAD: &str = "rocksdb.live-blob-file-garbage-size";

/// Keys are compacted if at least one byte was removed for each `COMPACT_PART` bytes in blob files.
const COMPACT_PART: u64 = 32;
/// The option with which a compaction rewrites the live rows of the oldest blob files.
const BLOB_GC: &str = "enable_blob_garbage_collection";
/// Minimum number of bytes that a rewrite of blob files leaves free on the disk.
const FREE_MIN: u64 = 16 << 20;

/// Decides when to compact.
pub(crate) struct Compaction {
    /// Minimum percentage of dead bytes for which blob files are rewritten.
    garbage: u64,
}

impl Compaction {
    /// Returns a compaction that rewrites blob files if at least `garbage` percent of their bytes
    /// are dead.
    pub(crate) fn new(garbage: u8) -> Self {
        Compaction {
            garbage: u64::from(garbage),
        }
    }

    /// Removes dead rows if `removed`, the bytes removed since the last compaction, are enough.
    /// Compacts keys first, because this is cheap and shows how many bytes are dead. Rewrites blob
    /// files only if enough of their bytes are dead. Returns whether the keys were compacted.
    pub(crate) fn run(&self, removed: u64, database: &Database, space: &Space) -> Result<bool> {
        if removed < database.rows_property(TOTAL)? / COMPACT_PART {
            return Ok(false);
        }
        database.flush()?;
        for name in family::all() {
            compact(database, name, BottommostLevelCompaction::ForceOptimized)?;
        }
        let dead = database.rows_property(DEAD)?;
        let total = database.rows_property(TOTAL)?;
        if dead * 100 < total * self.garbage {
            return Ok(true);
        }
        set_blob_gc(database, "true")?;
        let rewritten = rewrite_blob_files(database, space);
        set_blob_gc(database, "false")?;
        rewritten.map(|()| true)
    }
}

/// Rewrites the live rows of the oldest blob files. A later run rewrites the other files. Stops
/// when the disk has no room for old and new files together, because RocksDB accepts no writes
/// after a full disk.
fn rewrite_blob_files(database: &Database, space: &Space) -> Result<()> {
    for _ in 0..PASSES {
        let dead = database.rows_property(DEAD)?;
        let total = database.rows_property(TOTAL)?;
        let needed = total.saturating_sub(dead) / PASSES + FREE_MIN;
        if dead == 0 || space.free_bytes()? < needed {
            break;
        }
        compact(database, ROWS, BottommostLevelCompaction::Force)?;
    }
    Ok(())
}

/// Sets whether a compaction rewrites blob files: `"true"` or `"false"`.
fn set_blob_gc(database: &Database, value: &str) -> Result<()> {
    let rows = database.family(ROWS)?;
    let set = database.db.set_options_cf(rows, &[(BLOB_GC, value)]);
    set.map_err(classify)
}

/// Compacts all keys of a column family. Other compactions may run at the same time.
fn compact(database: &Database, name: &str, bottom: BottommostLevelCompaction) -> Result<()> {
    let mut options = CompactOptions::default();
    options.set_exclusive_manual_compaction(false);
    options.set_bottommost_level_compaction(bottom);
    let all: (Option<&[u8]>, Option<&[u8]>) = (None, None);
    let family = database.family(name)?;
    database
        .db
        .compact_range_cf_opt(family, all.0, all.1, &options);
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use cas_core::gc::{GcOptions, collect};
    use cas_core::{ContentExt, Digest, pool::wait};

    use crate::RocksStore;

    const SIZE: usize = 2 << 20;

    /// Returns the number of bytes in the blob files of the database in `directory`.
    fn in_blob_files(directory: &Path) -> u64 {
        let entries = fs::read_dir(directory.join("db")).unwrap();
        let files = entries.map(|entry| entry.unwrap()).filter(|entry| {
            let name = entry.file_name();
            name.to_str().unwrap().ends_with(".blob")
        });
        files.map(|file| file.metadata().unwrap().len()).sum()
    }

    /// A collection that is killed between its removals and its compaction has not returned the
    /// space. The next collection does, although it finds nothing to remove.
    #[test]
    fn the_space_of_a_killed_collection_is_given_back_by_the_next() {
        let temp = tempfile::tempdir().unwrap();
        let [killed, next] = ["killed", "next"].map(|name| temp.path().join(name));
        let store = RocksStore::open(&killed).unwrap();
        let content = store.content();
        let blobs: Vec<Digest> = (0..8)
            .map(|seed| wait(content.put(vec![seed; SIZE].into())).unwrap())
            .collect();
        for digest in &blobs[..7] {
            wait(content.remove(digest)).unwrap();
        }
        wait(content.flush()).unwrap();
        fs::create_dir_all(next.join("db")).unwrap();
        for file in fs::read_dir(killed.join("db")).unwrap() {
            let file = file.unwrap();
            fs::copy(file.path(), next.join("db").join(file.file_name())).unwrap();
        }
        assert!(in_blob_files(&next) > 7 * SIZE as u64);
        let store = RocksStore::open(&next).unwrap();
        let removed = wait(collect(&store.store(), &[], &GcOptions::default())).unwrap();
        assert!(removed.is_empty(), "{removed:?}");
        let left = wait(store.content().open(&blobs[7])).unwrap().unwrap();
        assert!(wait(left.read_at(0, SIZE)).unwrap() == vec![7; SIZE]);
        drop((left, store));
        let bytes = in_blob_files(&next);
        assert!(
            bytes < 2 * SIZE as u64,
            "{bytes} bytes are left of one blob of 2 MiB"
        );
    }
}
