//! Space that comes back: removals leave dead rows in blob files, which the engine takes away when
//! all of a file are dead, and writes the living of a file anew when it is told to.

use std::sync::atomic::{AtomicU64, Ordering};

use cas_core::Result;
use rocksdb::{BottommostLevelCompaction, CompactOptions};

use crate::error::sort;
use crate::family::{self, ROWS};
use crate::view::Database;

/// Bytes in blob files, dead ones among them.
const ALL: &str = "rocksdb.live-blob-file-size";
/// Bytes of dead rows in blob files, as far as compactions have met them.
const DEAD: &str = "rocksdb.live-blob-file-garbage-size";

/// What was removed since space last came back.
pub(crate) struct Compaction {
    garbage: u64,
    erased: AtomicU64,
}

impl Compaction {
    /// Writes files anew from `garbage` percent of dead bytes on.
    pub(crate) fn new(garbage: u8) -> Self {
        Compaction {
            garbage: u64::from(garbage),
            erased: AtomicU64::new(0),
        }
    }

    /// Notes bytes of rows that were removed.
    pub(crate) fn note(&self, erased: u64) {
        self.erased.fetch_add(erased, Ordering::Relaxed);
    }

    /// Takes dead rows away: their keys first, which is cheap and shows how many bytes are dead;
    /// the bytes, with those that live beside them written anew, when they are many.
    pub(crate) fn run(&self, database: &Database) -> Result<()> {
        if self.erased.swap(0, Ordering::Relaxed) == 0 {
            return Ok(());
        }
        for name in family::all() {
            database.db.flush_cf(database.family(name)?).map_err(sort)?;
        }
        for name in family::all() {
            compact(database, name, BottommostLevelCompaction::ForceOptimized)?;
        }
        let rows = database.family(ROWS)?;
        let size = |name| {
            let size = database.db.property_int_value_cf(rows, name).map_err(sort);
            Ok::<u64, cas_core::Error>(size?.unwrap_or(0))
        };
        let dead = size(DEAD)?;
        if dead == 0 || dead * 100 < size(ALL)? * self.garbage {
            return Ok(());
        }
        let collect = |on| {
            let options = [("enable_blob_garbage_collection", on)];
            database.db.set_options_cf(rows, &options).map_err(sort)
        };
        collect("true")?;
        let done = compact(database, ROWS, BottommostLevelCompaction::Force);
        collect("false")?;
        done
    }
}

/// Compacts a whole family, beside which others go on.
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
