//! The open database.

use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use cas_core::{Kind, Result};
use cas_kv::{Engine, Failed, Space, Transaction, View};
use rocksdb::{DB, ReadOptions, WriteOptions};

use crate::compaction::Compaction;
use crate::error::{broken, sort};
use crate::family::ROWS;
use crate::options::Tuning;
use crate::tables::Tables;
use crate::view::Database;

/// Most bytes of a row: what is read where one byte of it is wanted.
pub(crate) const ROW: usize = 64 << 10;
/// Most bytes of a blob that are kept beside its size.
const BESIDE: usize = 512;

/// Bytes of rows in memory.
const IN_MEMORY: &str = "rocksdb.size-all-mem-tables";

/// A database of RocksDB, open.
pub(crate) struct RocksEngine {
    db: Arc<Database>,
    /// Writes of rows that went past the log, and how many of them are on the disk.
    staged: AtomicU64,
    settled: Mutex<u64>,
    /// Whether there are commits that a crash would undo.
    unsynced: AtomicBool,
    compaction: Compaction,
    space: Space,
}

impl RocksEngine {
    /// Opens a database, or makes it. Where the disk is full it is given the reserve.
    pub(crate) fn open(path: &Path, new: bool, space: Space, tuning: Tuning) -> Result<Self> {
        if new {
            DirBuilder::new().mode(0o700).create(path)?;
        }
        let open = || {
            let options = tuning.database(new)?;
            let db = DB::open_cf_descriptors(&options, path, tuning.families());
            let mut unchecked = ReadOptions::default();
            unchecked.set_verify_checksums(false);
            let database = |db| Database {
                db,
                options,
                unchecked,
            };
            db.map(database).map_err(sort)
        };
        let opened = match open() {
            Err(error) if error.kind() == Kind::Full && space.release() => open(),
            opened => opened,
        };
        Ok(RocksEngine {
            db: Arc::new(opened?),
            staged: AtomicU64::new(0),
            settled: Mutex::new(0),
            unsynced: AtomicBool::new(false),
            compaction: Compaction::new(tuning.garbage),
            space,
        })
    }

    /// The database, for its statistics.
    pub(crate) fn database(&self) -> Arc<Database> {
        Arc::clone(&self.db)
    }
}

/// What is in the log only is written to where it stays: while there is room for it.
impl Drop for RocksEngine {
    fn drop(&mut self) {
        if let Err(error) = self.db.flush() {
            tracing::warn!(%error, "what the log holds is left in it");
        }
    }
}

impl Engine for RocksEngine {
    fn row(&self) -> usize {
        ROW
    }

    fn beside(&self) -> usize {
        BESIDE
    }

    /// What is in memory and in the log only.
    fn owed(&self) -> Result<u64> {
        self.db.size(IN_MEMORY)
    }

    fn view(&self) -> Result<Arc<dyn View>> {
        Ok(self.db.clone())
    }

    fn transact(
        &self,
        work: &mut dyn FnMut(&mut dyn Transaction) -> Result<bool, Failed>,
    ) -> Result<(), Failed> {
        let mut tables = Tables::new(&self.db);
        let synced = work(&mut tables)?;
        let covered = self.space.unsynced();
        let (logged, staged, erased) = tables.end();
        let mut options = WriteOptions::default();
        // The note of an ingest comes before its rows, or nobody would find them after a crash.
        options.set_sync(synced || staged.first);
        if !synced && !logged.is_empty() {
            // Before it can be seen: a flush that sees it must not think that it is synced.
            self.unsynced.store(true, Ordering::Release);
        }
        if synced || !logged.is_empty() {
            self.db.db.write_opt(logged, &options).map_err(broken)?;
        }
        if !staged.rows.is_empty() {
            let written = self.db.db.write_without_wal(staged.rows);
            self.staged.fetch_add(1, Ordering::AcqRel);
            written.map_err(broken)?;
            if synced {
                self.settle().map_err(Failed::Broken)?;
            }
        }
        if synced {
            self.unsynced.store(false, Ordering::Release);
            self.space.synced(covered);
        }
        self.compaction.note(erased);
        Ok(())
    }

    fn settle(&self) -> Result<()> {
        let wanted = self.staged.load(Ordering::Acquire);
        let mut settled = self.settled.lock().unwrap_or_else(PoisonError::into_inner);
        if *settled < wanted {
            let covered = self.staged.load(Ordering::Acquire);
            let rows = self.db.family(ROWS)?;
            self.db.db.flush_cf(rows).map_err(sort)?;
            *settled = covered;
        }
        Ok(())
    }

    fn sync(&self) -> Result<()> {
        if self.unsynced.swap(false, Ordering::AcqRel) {
            let synced = self.db.db.flush_wal(true).map_err(sort);
            if synced.is_err() {
                self.unsynced.store(true, Ordering::Release);
            }
            return synced;
        }
        Ok(())
    }

    fn compact(&self) -> Result<()> {
        self.compaction.run(&self.db, &self.space)
    }

    fn space(&self) -> &Space {
        &self.space
    }
}
