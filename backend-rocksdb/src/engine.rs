//! The open database.

use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use cas_core::{ErrorKind, Result};
use cas_kv::{Engine, Failed, Space, Transaction, View};
use rocksdb::{DB, ReadOptions, WriteOptions};

use crate::compaction::Compaction;
use crate::database::Database;
use crate::error::{broken, sort};
use crate::family::{ROW, ROWS};
use crate::options::Tuning;
use crate::tables::Tables;

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
            Err(error) if error.kind() == ErrorKind::Full && space.release() => open(),
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may fail anywhere")]

    use std::fs;

    use cas_kv::Staged;
    use rocksdb::statistics::Ticker;

    use super::*;

    fn opened(directory: &Path, new: bool) -> RocksEngine {
        let space = Space::new(directory, 0, false).unwrap();
        let tuning = Tuning {
            statistics: true,
            ..Tuning::default()
        };
        RocksEngine::open(&directory.join("db"), new, space, tuning).unwrap()
    }

    /// Adds a row of 100 bytes to an ingest that has `offset`.
    fn spill(engine: &RocksEngine, offset: u64, synced: bool) {
        let staged = Staged {
            number: 1,
            offset: offset + 100,
            millis: 1,
        };
        let mut work = |tables: &mut dyn Transaction| {
            tables.note("key", staged)?;
            tables.stage(1, offset, &[7; 100])?;
            Ok(synced)
        };
        engine.transact(&mut work).unwrap();
    }

    /// What the ingest has where this process is killed now.
    fn after_a_kill(engine: &RocksEngine) -> Option<u64> {
        let copy = tempfile::tempdir().unwrap();
        fs::create_dir(copy.path().join("db")).unwrap();
        for file in fs::read_dir(engine.db.db.path()).unwrap() {
            let file = file.unwrap();
            fs::copy(file.path(), copy.path().join("db").join(file.file_name())).unwrap();
        }
        let copied = opened(copy.path(), false);
        let found = copied.view().unwrap().ingest("key").unwrap();
        found.map(|staged| staged.offset)
    }

    #[test]
    fn an_ingest_is_known_on_the_disk_before_its_first_row() {
        let temp = tempfile::tempdir().unwrap();
        let engine = opened(temp.path(), true);
        let syncs = || engine.db.options.get_ticker_count(Ticker::WalFileSynced);
        let before = syncs();
        spill(&engine, 0, false);
        assert_eq!(syncs(), before + 1);
        spill(&engine, 100, false);
        assert_eq!(syncs(), before + 1, "the next rows need no other note");
    }

    #[test]
    fn rows_that_were_synced_outlive_a_kill() {
        let temp = tempfile::tempdir().unwrap();
        let engine = opened(temp.path(), true);
        spill(&engine, 0, true);
        spill(&engine, 100, false);
        assert_eq!(after_a_kill(&engine), Some(100));
    }
}
