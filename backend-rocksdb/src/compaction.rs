//! Space that comes back: removals leave dead rows in blob files, which the engine takes away when
//! all of a file are dead, and writes the living of a file anew when it is told to.

use std::sync::atomic::{AtomicU64, Ordering};

use cas_core::Result;
use cas_kv::Space;
use rocksdb::{BottommostLevelCompaction, CompactOptions};

use crate::database::Database;
use crate::error::sort;
use crate::family::{self, ROWS};

/// Bytes in blob files, dead ones among them.
const ALL: &str = "rocksdb.live-blob-file-size";
/// Bytes of dead rows in blob files, as far as compactions have met them.
const DEAD: &str = "rocksdb.live-blob-file-garbage-size";

/// The part of the bytes in blob files that removals must have come to, before all keys are passed
/// over for them.
const WORTH: u64 = 32;
/// The option that has compactions write anew what lives in the oldest files.
const GARBAGE: &str = "enable_blob_garbage_collection";
/// Passes that write all files anew, each the oldest of them.
const PASSES: u64 = 4;
/// The part of the files that one pass writes anew.
pub(crate) const OLDEST: f64 = 1.0 / PASSES as f64;
/// Free bytes of the disk that are left to others.
const ROOM: u64 = 16 << 20;

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

    /// Takes dead rows away, when they are more than a few: their keys first, which is cheap and
    /// shows how many bytes are dead; the bytes, with those that live beside them written anew,
    /// when they are many.
    pub(crate) fn run(&self, database: &Database, space: &Space) -> Result<()> {
        let erased = self.erased.load(Ordering::Relaxed);
        if erased == 0 || erased < database.size(ALL)? / WORTH {
            return Ok(());
        }
        self.erased.fetch_sub(erased, Ordering::Relaxed);
        database.flush()?;
        for name in family::all() {
            compact(database, name, BottommostLevelCompaction::ForceOptimized)?;
        }
        let (dead, all) = (database.size(DEAD)?, database.size(ALL)?);
        if dead * 100 < all * self.garbage {
            return Ok(());
        }
        collect_garbage(database, true)?;
        let done = renew(database, space);
        collect_garbage(database, false)?;
        done
    }
}

/// Writes the living of all blob files anew, the oldest first, as long as there is room for them
/// beside the old: the engine ends at a full disk.
fn renew(database: &Database, space: &Space) -> Result<()> {
    for _ in 0..PASSES {
        let (dead, all) = (database.size(DEAD)?, database.size(ALL)?);
        if dead == 0 || space.free()? < all.saturating_sub(dead) / PASSES + ROOM {
            break;
        }
        compact(database, ROWS, BottommostLevelCompaction::Force)?;
    }
    Ok(())
}

/// Whether compactions write the living of the oldest blob files anew.
fn collect_garbage(database: &Database, on: bool) -> Result<()> {
    let options = [(GARBAGE, if on { "true" } else { "false" })];
    let rows = database.family(ROWS)?;
    database.db.set_options_cf(rows, &options).map_err(sort)
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
