//! The open file: one view for all who read, one transaction at a time for those who write.

use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::thread;
use std::time::Duration;

use cas_core::Result;
use cas_kv::{Engine, Failed, Space, Transaction, View};
use redb::{Builder, CompactionError, Database, ReadableDatabase, ReadableTableMetadata};

use crate::disk::Disk;
use crate::error::{broken, corrupt, sort};
use crate::rows::{BESIDE, ROW};
use crate::tables::Tables;
use crate::view::RedbView;

/// What [`MetadataExt::blocks`] counts in, in bytes.
const SECTOR: u64 = 512;
/// Bytes of a page of the engine.
const PAGE: u64 = 4 << 10;
/// Bytes of a page with one row that are not of the row, at most.
const ROW_HEAD: u64 = 64;
/// The part of the file that removals must have freed to make a compaction worth its work.
const WORTH: u64 = 4;
/// Free bytes of the disk without which none is begun: the engine ends at a full disk.
const ROOM: u64 = 32 << 20;
/// How often a compaction looks whether the last reader has gone, before it is left to the next.
const LOOKS: usize = 100;
/// The time between.
const LOOK: Duration = Duration::from_millis(1);

/// A file of redb, open.
pub(crate) struct RedbEngine {
    /// What the last commit left, opened by the first who reads after it. It stands for no caller
    /// and is dropped with the next commit, so that it keeps nothing from being freed.
    view: RwLock<Option<Arc<RedbView>>>,
    /// Read by whoever uses it, written by a compaction, which wants it alone.
    db: RwLock<Database>,
    /// Held by a transaction until what it did to the space is told.
    writer: Mutex<()>,
    /// Whether there are commits that a crash would undo.
    unsynced: AtomicBool,
    file: File,
    space: Space,
}

impl RedbEngine {
    /// Opens a file, which is locked. The engine gives up on some damaged ones with a panic.
    pub(crate) fn open(file: File, space: Space, cache: usize) -> Result<Self> {
        let disk = Disk {
            file: file.try_clone()?,
            space: space.clone(),
        };
        let open = || {
            Builder::new()
                .set_cache_size(cache)
                .create_with_backend(disk)
        };
        let opened = catch_unwind(AssertUnwindSafe(open));
        let opened = opened.map_err(|_| corrupt("the engine cannot read it"))?;
        Ok(RedbEngine {
            view: RwLock::new(None),
            db: RwLock::new(opened.map_err(sort)?),
            writer: Mutex::new(()),
            unsynced: AtomicBool::new(false),
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
        // Begun under the lock, so that no commit ends between it and what is kept of it.
        let mut view = self.view.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(view) = &*view {
            return Ok(Arc::clone(view));
        }
        let db = self.db.read().unwrap_or_else(PoisonError::into_inner);
        let tx = db.begin_read().map_err(sort)?;
        Ok(Arc::clone(view.insert(Arc::new(RedbView::open(&tx)?))))
    }

    /// What a damaged file makes the engine panic with is an error here.
    fn commit(
        &self,
        work: impl FnOnce(&mut Tables<'_>) -> Result<bool, Failed>,
    ) -> Result<(), Failed> {
        let _alone = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let done = catch_unwind(AssertUnwindSafe(|| self.transaction(work)));
        *self.view.write().unwrap_or_else(PoisonError::into_inner) = None;
        done.unwrap_or_else(|_| Err(Failed::Broken(corrupt("the engine gave up on it"))))
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
        let covered = self.space.unsynced();
        if synced {
            tx.set_two_phase_commit(true);
            tx.commit().map_err(broken)?;
            self.unsynced.store(false, Ordering::Release);
            self.space.synced(covered);
        } else {
            tx.set_durability(redb::Durability::None).map_err(broken)?;
            // Before it can be seen: a flush that sees it must not think that it is synced.
            self.unsynced.store(true, Ordering::Release);
            tx.commit().map_err(broken)?;
        }
        Ok(())
    }
}

impl RedbEngine {
    /// Bytes of the disk that the file takes.
    fn allocated(&self) -> Result<u64> {
        Ok(self.file.metadata()?.blocks() * SECTOR)
    }

    /// Lets the engine cut the file, when no reader is left of before.
    fn cut(&self) -> Result<()> {
        // Held, so that no reader begins meanwhile.
        let mut view = self.view.write().unwrap_or_else(PoisonError::into_inner);
        *view = None;
        let mut db = self.db.write().unwrap_or_else(PoisonError::into_inner);
        for _ in 0..LOOKS {
            let cut = catch_unwind(AssertUnwindSafe(|| db.compact()));
            match cut.map_err(|_| corrupt("the engine gave up on it"))? {
                Err(CompactionError::TransactionInProgress) => thread::sleep(LOOK),
                Err(error) => return Err(sort(error)),
                Ok(_) => {
                    self.space.reused();
                    return Ok(());
                }
            }
        }
        Ok(())
    }
}

impl Engine for RedbEngine {
    fn row(&self) -> usize {
        ROW
    }

    fn beside(&self) -> usize {
        BESIDE
    }

    /// A row has pages of its own, of a power of two.
    fn footprint(&self, bytes: u64) -> u64 {
        match bytes + ROW_HEAD {
            page if page > PAGE && bytes <= ROW as u64 => page.next_power_of_two(),
            _ => bytes,
        }
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
        match self.unsynced.load(Ordering::Acquire) {
            true => Ok(self.commit(|_| Ok(true))?),
            false => Ok(()),
        }
    }

    fn reap(&self) -> Result<()> {
        while !self.redb_view()?.doomed.is_empty().map_err(sort)? {
            self.commit(|tables| tables.reap().map(|()| false))?;
        }
        Ok(())
    }

    /// Where removals have freed much of it, moves rows down the file, a few at a time, so that the
    /// engine, which wants the file alone for it, has little left to do but to cut it.
    fn compact(&self) -> Result<()> {
        let worth = self.space.removed() >= self.allocated()? / WORTH;
        if !worth || self.space.free()? < ROOM {
            return Ok(());
        }
        let mut from = Some((0, 0));
        while let Some(first) = from {
            self.commit(|tables| {
                from = tables.move_rows(first)?;
                Ok(true)
            })?;
        }
        self.cut()
    }

    fn space(&self) -> &Space {
        &self.space
    }
}
