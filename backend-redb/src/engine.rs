//! The open database. All readers share one view. Only one write transaction runs at a time.

use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::thread;
use std::time::Duration;

use cas_core::Result;
use cas_core::caught::caught;
use cas_core::sync::lock;
use cas_kv::{Engine, Failed, OpenMode, Space, Transaction, View};
use redb::{Builder, CompactionError, Database, ReadableDatabase, ReadableTableMetadata};

use crate::disk::Disk;
use crate::error::{broken, classify, corrupt};
use crate::head::Head;
use crate::overlay::Overlay;
use crate::rows::{INLINE_MAX, ROW_SIZE};
use crate::tables::Tables;
use crate::view::RedbView;

/// The unit of [`MetadataExt::blocks`] in bytes.
const SECTOR: u64 = 512;
/// Size of a page in bytes.
const PAGE: u64 = 4 << 10;
/// Maximum overhead in bytes of a page with one row.
const ROW_OVERHEAD: u64 = 64;
/// A compaction runs only if the removed bytes and the unused bytes are each at least the space of
/// the file on the disk, divided by this number.
const COMPACT_PART: u64 = 4;
/// Minimum number of free bytes on the disk for a compaction. A full disk would stop the engine.
const COMPACT_FREE: u64 = 32 << 20;
/// Maximum number of times that a compaction checks for open readers. If some are still open, it
/// leaves the truncation to the next compaction.
const READER_CHECKS: usize = 100;
/// Time between these checks.
const READER_DELAY: Duration = Duration::from_millis(1);

/// An open redb file.
pub(crate) struct RedbEngine {
    /// The tables as of the last commit, opened by the first reader after that commit. The next
    /// commit drops the view, because redb cannot use removed pages again while a view needs them.
    view: RwLock<Option<Arc<RedbView>>>,
    /// Locked for reading by every user of the database, and for writing by a compaction, which
    /// needs exclusive access.
    db: RwLock<Database>,
    /// Held from the start of a transaction until its space is accounted for.
    writer: Mutex<()>,
    /// Whether there are commits that a crash would undo.
    unsynced: AtomicBool,
    /// Whether the start of the file was read from its copy.
    reads_head: bool,
    file: File,
    space: Space,
}

impl RedbEngine {
    /// Opens a locked file. `head` is the copy of its start, and `cache` is the size of the page
    /// cache in bytes.
    ///
    /// redb panics on some damaged files. This function returns an error instead.
    pub(crate) fn open(
        file: File,
        head: Head,
        mode: OpenMode,
        space: Space,
        cache: usize,
    ) -> Result<Self> {
        let mut builder = Builder::new();
        builder.set_cache_size(cache);
        let copy = file.try_clone()?;
        let reads_head = mode == OpenMode::Damaged;
        let start = reads_head.then(|| head.load()).transpose()?;
        let open = || match start {
            Some((start, length)) => {
                builder.create_with_backend(Overlay::with_head(copy, &start, length)?)
            }
            None if mode == OpenMode::ReadOnly => builder.create_with_backend(Overlay::new(copy)?),
            None => builder.create_with_backend(Disk {
                file: copy,
                space: space.clone(),
                head: (mode == OpenMode::Existing).then(|| head.clone()),
            }),
        };
        let opened = caught(open).ok_or_else(|| corrupt("redb cannot read it"))?;
        if opened.is_ok() {
            head.set_opened();
        }
        Ok(RedbEngine {
            view: RwLock::new(None),
            db: RwLock::new(opened.map_err(classify)?),
            writer: Mutex::new(()),
            unsynced: AtomicBool::new(false),
            reads_head,
            file,
            space,
        })
    }

    fn redb_view(&self) -> Result<Arc<RedbView>> {
        let view = self.view.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(view) = &*view {
            return Ok(Arc::clone(view));
        }
        drop(view);
        // Opened under the lock, so that no commit ends before the view is stored.
        let mut view = self.view.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(view) = &*view {
            return Ok(Arc::clone(view));
        }
        let db = self.db.read().unwrap_or_else(PoisonError::into_inner);
        let tx = db.begin_read().map_err(classify)?;
        Ok(Arc::clone(view.insert(Arc::new(RedbView::open(&tx)?))))
    }

    /// Runs a transaction, which is synced if `work` returns `true`. A panic of redb on a damaged
    /// file becomes an error.
    fn commit(
        &self,
        work: impl FnOnce(&mut Tables<'_>) -> Result<bool, Failed>,
    ) -> Result<(), Failed> {
        let _writer = lock(&self.writer);
        let done = caught(|| self.transaction(work));
        *self.view.write().unwrap_or_else(PoisonError::into_inner) = None;
        done.unwrap_or_else(|| Err(Failed::Broken(corrupt("redb cannot change it"))))
    }

    fn transaction(
        &self,
        work: impl FnOnce(&mut Tables<'_>) -> Result<bool, Failed>,
    ) -> Result<(), Failed> {
        let db = self.db.read().unwrap_or_else(PoisonError::into_inner);
        let mut tx = db.begin_write().map_err(broken)?;
        let mut tables = Tables::open(&tx)?;
        let synced = work(&mut tables)?;
        drop(tables);
        let covered = self.space.unsynced_bytes();
        if synced {
            tx.set_two_phase_commit(true);
            tx.commit().map_err(broken)?;
            self.unsynced.store(false, Ordering::Release);
            self.space.mark_synced(covered);
        } else {
            tx.set_durability(redb::Durability::None).map_err(broken)?;
            // Set before the commit is visible: a `sync` that finds the commit must not skip it.
            self.unsynced.store(true, Ordering::Release);
            tx.commit().map_err(broken)?;
        }
        Ok(())
    }
}

/// Returns the number of bytes that a row takes in the file. If a row is larger than a page, redb
/// stores it in space whose size is a power of two.
fn space_of_row(bytes: u64) -> u64 {
    match bytes + ROW_OVERHEAD {
        page if page > PAGE => page.next_power_of_two(),
        _ => bytes,
    }
}

impl RedbEngine {
    /// Returns the number of bytes that the file takes on the disk.
    fn allocated(&self) -> Result<u64> {
        Ok(self.file.metadata()?.blocks() * SECTOR)
    }

    /// Returns the number of bytes of the file that no blob and no ingest uses.
    fn unused(&self) -> Result<u64> {
        let view = self.redb_view()?;
        let used = caught(|| view.sum_sizes(|bytes| self.footprint(bytes)));
        let used = used.ok_or_else(|| corrupt("redb cannot read the blobs in the file"))??;
        Ok(self.allocated()?.saturating_sub(used))
    }

    /// Waits until no reader is left, then truncates the file. Returns `false` if readers are still
    /// open after about [`READER_CHECKS`] times [`READER_DELAY`]. The truncation is then left to
    /// the next compaction.
    fn truncate(&self) -> Result<bool> {
        // Held during the truncation, so that no new reader starts.
        let mut view = self.view.write().unwrap_or_else(PoisonError::into_inner);
        *view = None;
        let mut db = self.db.write().unwrap_or_else(PoisonError::into_inner);
        for _ in 0..READER_CHECKS {
            let compacted = caught(|| db.compact());
            match compacted.ok_or_else(|| corrupt("redb cannot compact it"))? {
                Err(CompactionError::TransactionInProgress) => thread::sleep(READER_DELAY),
                Err(error) => return Err(classify(error)),
                Ok(_) => {
                    self.space.reset_removed();
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }
}

impl Engine for RedbEngine {
    fn row_size(&self) -> usize {
        ROW_SIZE
    }

    fn inline_max(&self) -> usize {
        INLINE_MAX
    }

    fn footprint(&self, bytes: u64) -> u64 {
        let row = ROW_SIZE as u64;
        bytes / row * space_of_row(row) + space_of_row(bytes % row)
    }

    fn view(&self) -> Result<Arc<dyn View>> {
        Ok(self.redb_view()?)
    }

    fn transact(
        &self,
        work: &mut dyn FnMut(&mut dyn Transaction) -> Result<bool, Failed>,
    ) -> Result<(), Failed> {
        self.commit(|tables| work(tables))
    }

    fn sync(&self) -> Result<()> {
        if self.unsynced.load(Ordering::Acquire) {
            self.commit(|_| Ok(true))?;
        }
        Ok(())
    }

    fn finish_removals(&self) -> Result<()> {
        while !self.redb_view()?.doomed.is_empty().map_err(classify)? {
            self.commit(|tables| tables.finish_removal().map(|()| false))?;
        }
        Ok(())
    }

    /// If removals have freed a large part of the file, and the disk has at least [`COMPACT_FREE`]
    /// free bytes, moves rows to the start of the file in small transactions, and then truncates
    /// the file. Only the truncation needs exclusive access, and it has little left to move.
    ///
    /// A kill before the truncation leaves the free space in the file. This space still counts as
    /// removed.
    fn compact(&self, removed: u64) -> Result<bool> {
        let part = self.allocated()? / COMPACT_PART;
        // Blobs that were stored since a removal may use its space.
        let worthwhile = removed >= part && self.unused()? >= part;
        if !worthwhile || self.space.free_bytes()? < COMPACT_FREE {
            return Ok(false);
        }
        let mut next = Some((0, 0));
        while let Some(first) = next {
            self.commit(|tables| {
                next = tables.move_rows(first)?;
                Ok(true)
            })?;
        }
        self.truncate()
    }

    fn reads_head(&self) -> bool {
        self.reads_head
    }

    fn space(&self) -> &Space {
        &self.space
    }
}
