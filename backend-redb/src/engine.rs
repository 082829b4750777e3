//! The open file: one view for all who read, one transaction at a time for those who write.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::SystemTime;

use cas_core::Result;
use cas_core::content::Durability;
use cas_core::group::Queue;
use redb::{Database, ReadableDatabase, ReadableTableMetadata};

use crate::error::{Failed, corrupt, sort};
use crate::group::Job;
use crate::place::Place;
use crate::space::Space;
use crate::tables::{Numbers, Tables, View};

/// What the handles of one open store have in common.
pub(crate) struct Engine {
    /// What the last commit left, opened by the first who reads after it. It stands for no caller
    /// and is dropped with the next commit, so that it keeps nothing from being freed.
    view: RwLock<Option<Arc<View>>>,
    db: Database,
    writer: Mutex<Numbers>,
    /// Whether there are commits that a crash would undo.
    unsynced: AtomicBool,
    pub(crate) queue: Queue<Box<dyn Job>>,
    /// Ingests that have a writer: the bytes they hold, and when they last grew.
    pub(crate) held: Mutex<BTreeMap<String, (u64, SystemTime)>>,
    pub(crate) space: Space,
    /// Dropped last: the place is another's when the file is closed.
    place: Place,
}

impl Engine {
    /// The engine over an open file of the right format.
    pub(crate) fn new(db: Database, space: Space, place: Place) -> Self {
        Engine {
            view: RwLock::new(None),
            db,
            writer: Mutex::default(),
            unsynced: AtomicBool::new(false),
            queue: Queue::default(),
            held: Mutex::default(),
            space,
            place,
        }
    }

    /// What is there now.
    pub(crate) fn view(&self) -> Result<Arc<View>> {
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
        let tx = self.db.begin_read().map_err(sort)?;
        let fresh = Arc::new(View::open(&tx).map_err(sort)?);
        Ok(Arc::clone(view.insert(fresh)))
    }

    /// Makes changes in a transaction of their own.
    pub(crate) fn write<T>(
        &self,
        durability: Durability,
        work: impl FnOnce(&mut Tables<'_>) -> Result<T, Failed>,
    ) -> Result<T> {
        Ok(self.transact(|tables| Ok((work(tables)?, durability != Durability::Relaxed)))?)
    }

    /// Makes changes in one transaction, which is synced where `work` says so.
    ///
    /// What a damaged file makes the engine panic with is an error here.
    pub(crate) fn transact<T>(
        &self,
        work: impl FnOnce(&mut Tables<'_>) -> Result<(T, bool), Failed>,
    ) -> Result<T, Failed> {
        let mut numbers = lock(&self.writer);
        let transaction = || self.transaction(&mut numbers, work);
        let done = catch_unwind(AssertUnwindSafe(transaction));
        *self.view.write().unwrap_or_else(PoisonError::into_inner) = None;
        done.unwrap_or_else(|_| Err(Failed::Broken(corrupt("the engine gave up on it"))))
    }

    fn transaction<T>(
        &self,
        numbers: &mut Numbers,
        work: impl FnOnce(&mut Tables<'_>) -> Result<(T, bool), Failed>,
    ) -> Result<T, Failed> {
        let mut tx = self.db.begin_write()?;
        let mut tables = Tables::open(&tx, *numbers)?;
        let (done, wanted) = work(&mut tables)?;
        // Where the taking of numbers is lost, one might come twice.
        let synced = wanted || tables.took_numbers;
        let left = tables.numbers;
        drop(tables);
        let covered = self.space.unsynced();
        if synced {
            tx.set_two_phase_commit(true);
            tx.commit()?;
            self.unsynced.store(false, Ordering::Release);
            self.space.synced(covered);
        } else {
            tx.set_durability(redb::Durability::None)?;
            // Before it can be seen: a flush that sees it must not think that it is synced.
            self.unsynced.store(true, Ordering::Release);
            tx.commit()?;
        }
        *numbers = left;
        Ok(done)
    }

    /// Gives the file of a store that is whole now its name.
    pub(crate) fn publish(&self) -> Result<()> {
        self.place.publish()
    }

    /// Whether a crash would undo a commit.
    pub(crate) fn unsynced(&self) -> bool {
        self.unsynced.load(Ordering::Acquire)
    }

    /// Removes the rows that nothing points at any more, a few at a time.
    pub(crate) fn reap(&self) -> Result<()> {
        while !self.view()?.doomed.is_empty().map_err(sort)? {
            self.write(Durability::Relaxed, |tables| tables.reap())?;
        }
        Ok(())
    }
}

/// Nothing that these locks guard is left half changed by a panic.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
