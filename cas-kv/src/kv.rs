//! What the handles of one open store have in common.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use cas_core::content::Durability;
use cas_core::group::Queue;
use cas_core::{Error, Result};

use crate::engine::{Engine, Failed};
use crate::job::Job;
use crate::place::Place;
use crate::tables::{Numbers, Tables};

/// The name of the format in the numbers of a store.
const FORMAT: &str = "format";
/// The format of the tables that this version reads and writes.
const VERSION: u64 = 1;
/// An open engine, and who writes to it.
pub(crate) struct Kv {
    pub(crate) engine: Box<dyn Engine>,
    numbers: Mutex<Numbers>,
    pub(crate) queue: Queue<Box<dyn Job>>,
    /// Ingests that have a writer: the bytes they hold, and when they last grew.
    pub(crate) held: Mutex<BTreeMap<String, (u64, SystemTime)>>,
    /// Whether the engine failed in the middle of a transaction: what it holds may be less than it
    /// shows.
    failed: AtomicBool,
    /// Dropped last: the place is another's when the engine is closed.
    _place: Place,
}

impl Kv {
    /// Makes an empty engine a store.
    pub(crate) fn make(engine: &dyn Engine) -> Result<()> {
        engine.transact(&mut |tables| {
            tables.set_meta(FORMAT, VERSION)?;
            Ok(true)
        })?;
        engine.sync()
    }

    /// The store in an engine.
    pub(crate) fn open(engine: Box<dyn Engine>, place: Place) -> Result<Self> {
        let kv = Kv {
            engine,
            numbers: Mutex::default(),
            queue: Queue::default(),
            held: Mutex::default(),
            failed: AtomicBool::new(false),
            _place: place,
        };
        kv.check_format()?;
        kv.engine.reap()?;
        kv.engine.space().keep_back();
        Ok(kv)
    }

    fn check_format(&self) -> Result<()> {
        match self.engine.view()?.meta(FORMAT)? {
            Some(VERSION) => Ok(()),
            Some(newer) => Err(Error::precondition(format!(
                "expected format {VERSION}, found {newer}; use the release that wrote it"
            ))),
            None => Err(Error::precondition(
                "it is a database of another program; choose another directory",
            )),
        }
    }

    /// Checks that `bytes` more fit, beside what the engine has yet to write.
    ///
    /// # Errors
    /// `Full`, before the engine meets it.
    pub(crate) fn take(&self, bytes: u64) -> Result<()> {
        self.engine.space().take(bytes, self.engine.owed()?)
    }

    /// Refuses what would build on an engine that failed.
    ///
    /// # Errors
    /// `FailedPrecondition` after a transaction that the engine failed in.
    pub(crate) fn check_whole(&self) -> Result<()> {
        match self.failed.load(Ordering::Acquire) {
            false => Ok(()),
            true => Err(Error::precondition(
                "an earlier write failed; check the device and open the store anew",
            )),
        }
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
    pub(crate) fn transact<T>(
        &self,
        work: impl FnOnce(&mut Tables<'_>) -> Result<(T, bool), Failed>,
    ) -> Result<T, Failed> {
        let mut numbers = lock(&self.numbers);
        let (mut work, mut done, mut left) = (Some(work), None, *numbers);
        let outcome = self.engine.transact(&mut |tables| {
            let mut tables = Tables {
                tables,
                numbers: left,
                took_numbers: false,
                row: self.engine.row(),
                beside: self.engine.beside(),
            };
            let Some(work) = work.take() else {
                return Err(internal("a transaction ran twice"));
            };
            let (out, synced) = work(&mut tables)?;
            (done, left) = (Some(out), tables.numbers);
            // Where the taking of numbers is lost, one might come twice.
            Ok(synced || tables.took_numbers)
        });
        if let Err(Failed::Broken(_)) = outcome {
            self.failed.store(true, Ordering::Release);
        }
        outcome?;
        *numbers = left;
        done.ok_or_else(|| internal("a transaction did not run"))
    }
}

fn internal(seen: &str) -> Failed {
    Failed::Broken(Error::internal(format!("{seen}; please report it")))
}

/// Nothing that these locks guard is left half changed by a panic.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
