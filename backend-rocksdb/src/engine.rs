//! The open database.

use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use cas_core::sync::lock;
use cas_core::{ErrorKind, Result};
use cas_kv::{Engine, Failed, OpenMode, Space, Transaction, View};
use rocksdb::WriteOptions;

use crate::compaction::Compaction;
use crate::database::Database;
use crate::error::{broken, classify, corrupt};
use crate::family::{ROW_SIZE, ROWS};
use crate::options::Tuning;
use crate::tables::Tables;
use crate::unsynced::Unsynced;
use crate::{checksums, damaged};

/// Maximum size in bytes of a blob that is stored inline, in its entry.
const INLINE_MAX: usize = 512;

/// The property with the bytes of rows in memory.
const IN_MEMORY: &str = "rocksdb.size-all-mem-tables";

/// An open RocksDB database.
pub(crate) struct RocksEngine {
    db: Arc<Database>,
    /// Whether the database is flushed when it is closed.
    writable: bool,
    /// Whether the database is read with the copy of its manifest.
    reads_head: bool,
    /// How many writes of rows have bypassed the log.
    staged: AtomicU64,
    /// How many of those writes are durable.
    flushed: Mutex<u64>,
    unsynced: Unsynced,
    compaction: Compaction,
    space: Space,
}

impl RocksEngine {
    /// Opens or creates a database. If the disk is full, removes the reserve and tries once more.
    pub(crate) fn open(path: &Path, mode: OpenMode, space: Space, tuning: Tuning) -> Result<Self> {
        if mode == OpenMode::Create {
            DirBuilder::new().mode(0o700).create(path)?;
        } else if path.is_file() {
            let path = path.display();
            return Err(corrupt(&format!(
                "expected the directory {path}, found a file"
            )));
        }
        let open = || match mode {
            OpenMode::Damaged => damaged::open(path, tuning),
            _ => Database::open(path, mode, tuning).map(|database| (database, false)),
        };
        let opened = match open() {
            Err(error) if error.kind() == ErrorKind::Full && space.release_reserve() => open(),
            opened => opened,
        };
        let (db, reads_head) = opened?;
        Ok(RocksEngine {
            db: Arc::new(db),
            writable: mode.is_writable(),
            reads_head,
            staged: AtomicU64::new(0),
            flushed: Mutex::new(0),
            unsynced: Unsynced::default(),
            compaction: Compaction::new(tuning.garbage),
            space,
        })
    }

    /// Returns the database, for its statistics.
    pub(crate) fn database(&self) -> Arc<Database> {
        Arc::clone(&self.db)
    }
}

/// Writes the contents of the log to table files. This is done when the database is closed and not
/// when it is opened again, because the disk may be full by then.
impl Drop for RocksEngine {
    fn drop(&mut self) {
        if self.writable
            && let Err(error) = self.db.flush()
        {
            tracing::warn!(
                %error,
                "cannot flush the database before it is closed; the next opening reads its log"
            );
        }
    }
}

impl Engine for RocksEngine {
    fn row_size(&self) -> usize {
        ROW_SIZE
    }

    fn inline_max(&self) -> usize {
        INLINE_MAX
    }

    /// Returns the number of bytes of rows in memory. A flush will write them to files.
    fn pending_bytes(&self) -> Result<u64> {
        self.db.rows_property(IN_MEMORY)
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
        let (bytes, writes) = (self.space.unsynced_bytes(), self.unsynced.covered());
        let (logged, staged) = tables.into_parts();
        let mut options = WriteOptions::default();
        // The entry of an ingest must be durable before its rows, or a crash could leave rows that
        // no entry refers to.
        options.set_sync(synced || staged.first);
        if synced {
            self.db.db.write_opt(logged, &options).map_err(broken)?;
        } else if !logged.is_empty() {
            let write = || self.db.db.write_opt(logged, &options);
            self.unsynced.write(write).map_err(broken)?;
        }
        if !staged.rows.is_empty() {
            let written = self.db.db.write_without_wal(staged.rows);
            self.staged.fetch_add(1, Ordering::AcqRel);
            written.map_err(broken)?;
            if synced {
                self.flush_staged().map_err(Failed::Broken)?;
            }
        }
        if synced {
            self.unsynced.mark_synced(writes);
            self.space.mark_synced(bytes);
        }
        Ok(())
    }

    fn flush_staged(&self) -> Result<()> {
        let wanted = self.staged.load(Ordering::Acquire);
        let mut flushed = lock(&self.flushed);
        if *flushed < wanted {
            let covered = self.staged.load(Ordering::Acquire);
            let rows = self.db.family(ROWS)?;
            self.db.db.flush_cf(rows).map_err(classify)?;
            *flushed = covered;
        }
        Ok(())
    }

    fn sync(&self) -> Result<()> {
        if self.unsynced.is_pending() {
            let writes = self.unsynced.covered();
            self.db.db.flush_wal(true).map_err(classify)?;
            self.unsynced.mark_synced(writes);
        }
        Ok(())
    }

    fn compact(&self, removed: u64) -> Result<bool> {
        self.compaction.run(removed, &self.db, &self.space)
    }

    /// Checks the checksums of all table files. They contain the keys of rows, which reads of blobs
    /// do not check. A compaction fails on a damaged table file, even if all its keys were written
    /// again since.
    fn check_files(&self) -> Result<()> {
        checksums::check(&self.db.db)
    }

    fn reads_head(&self) -> bool {
        self.reads_head
    }

    fn space(&self) -> &Space {
        &self.space
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may fail anywhere")]

    use std::fs;

    use cas_kv::{IngestEntry, Reserve, Reuse};
    use rocksdb::statistics::Ticker;

    use super::*;

    fn open(directory: &Path, mode: OpenMode) -> RocksEngine {
        let none = Reserve { bytes: 0, files: 0 };
        let space = Space::new(directory, none, Reuse::AfterCompaction).unwrap();
        let tuning = Tuning {
            statistics: true,
            ..Tuning::default()
        };
        RocksEngine::open(&directory.join("db"), mode, space, tuning).unwrap()
    }

    /// Appends a row of 100 bytes to the ingest at `offset`.
    fn append_row(engine: &RocksEngine, offset: u64, synced: bool) {
        let ingest = IngestEntry {
            number: 1,
            offset: offset + 100,
            millis: 1,
        };
        let mut work = |tables: &mut dyn Transaction| {
            tables.put_ingest("key", ingest)?;
            tables.stage_row(1, offset, &[7; 100])?;
            Ok(synced)
        };
        engine.transact(&mut work).unwrap();
    }

    /// Returns the size of the ingest that a kill of this process would leave now.
    fn after_a_kill(engine: &RocksEngine) -> Option<u64> {
        let copy = tempfile::tempdir().unwrap();
        fs::create_dir(copy.path().join("db")).unwrap();
        for file in fs::read_dir(engine.db.db.path()).unwrap() {
            let file = file.unwrap();
            fs::copy(file.path(), copy.path().join("db").join(file.file_name())).unwrap();
        }
        let copied = open(copy.path(), OpenMode::Existing);
        let found = copied.view().unwrap().ingest("key").unwrap();
        found.map(|ingest| ingest.offset)
    }

    #[test]
    fn the_entry_of_an_ingest_is_synced_before_its_first_row() {
        let temp = tempfile::tempdir().unwrap();
        let engine = open(temp.path(), OpenMode::Create);
        let syncs = || engine.db.options.get_ticker_count(Ticker::WalFileSynced);
        let before = syncs();
        append_row(&engine, 0, false);
        assert_eq!(syncs(), before + 1);
        append_row(&engine, 100, false);
        assert_eq!(syncs(), before + 1, "later rows need no sync");
    }

    #[test]
    fn synced_rows_survive_a_kill() {
        let temp = tempfile::tempdir().unwrap();
        let engine = open(temp.path(), OpenMode::Create);
        append_row(&engine, 0, true);
        append_row(&engine, 100, false);
        assert_eq!(after_a_kill(&engine), Some(100));
    }
}
