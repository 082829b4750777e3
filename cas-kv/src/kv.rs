//! The state that all handles of one open store share.

use std::collections::BTreeMap;
use std::sync::{Mutex, OnceLock};
use std::time::SystemTime;

use cas_core::caught::caught;
use cas_core::content::Durability;
use cas_core::group::Queue;
use cas_core::image::target_note;
use cas_core::records::Table;
use cas_core::sync::lock;
use cas_core::{Error, ErrorKind, Result};

use crate::engine::{Engine, Failed, Transaction, View};
use crate::job::Job;
use crate::owned_dir::OwnedDir;
use crate::space::KeptReserve;
use crate::tx::{Numbers, REMOVED, Tx};

/// The key of the format in the table `meta`.
const FORMAT: &str = "format";
/// The format that this version writes. Format 1 does not have the records table `notes`. Format 2
/// does not have the notes that lead from the target of an image name to the name.
const VERSION: u64 = 3;
/// Number of names that an upgrade reads at once.
const PAGE: usize = 1000;

/// What a store can be used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    /// For everything.
    Writable,
    /// Only for reading, because the directory cannot be written.
    ReadOnly,
    /// Only for reading, because the disk was full when the store was opened.
    Full,
}

/// An open engine and its writers.
pub(crate) struct Kv {
    pub(crate) engine: Box<dyn Engine>,
    numbers: Mutex<Numbers>,
    pub(crate) queue: Queue<Box<dyn Job>>,
    /// Ingests that have a writer: their size in bytes, and the time when they were last written or
    /// opened.
    pub(crate) open_ingests: Mutex<BTreeMap<String, (u64, SystemTime)>>,
    /// The kind of the error with which the engine first failed inside a transaction. After that,
    /// the engine may return data that is not on the disk.
    failed: OnceLock<ErrorKind>,
    access: Access,
    /// Whether every image name has a note. The note leads from the target of the name to the name.
    pub(crate) has_targets: bool,
    /// Dropped after the engine. `None` if the directory cannot be written.
    _reserve: Option<KeptReserve>,
    /// Dropped last, so that the directory is unlocked after the engine has closed its files.
    _dir: OwnedDir,
}

impl Kv {
    /// Writes the format and syncs. In redb, the transaction also creates missing tables.
    pub(crate) fn write_format(engine: &dyn Engine) -> Result<()> {
        engine.transact(&mut |tx| {
            tx.set_meta(FORMAT, VERSION)?;
            Ok(true)
        })?;
        engine.sync()
    }

    /// Opens the store in a database that this version or an older one has prepared with
    /// [`Kv::write_format`].
    pub(crate) fn open(engine: Box<dyn Engine>, dir: OwnedDir, access: Access) -> Result<Self> {
        let reserve = dir
            .is_writable()
            .then(|| KeptReserve(engine.space().clone()));
        let mut kv = Kv {
            engine,
            numbers: Mutex::default(),
            queue: Queue::default(),
            open_ingests: Mutex::default(),
            failed: OnceLock::new(),
            access,
            has_targets: false,
            _reserve: reserve,
            _dir: dir,
        };
        kv.has_targets = kv.upgrade_format()? == VERSION;
        if access != Access::Writable {
            return Ok(kv);
        }
        kv.engine.finish_removals()?;
        kv.engine.space().create_reserve();
        Ok(kv)
    }

    /// Checks the format, and upgrades an older format if the database is writable and the disk has
    /// room. Returns the format that the database then has.
    fn upgrade_format(&self) -> Result<u64> {
        match self.read(|view| view.meta(FORMAT))? {
            Some(VERSION) => Ok(VERSION),
            Some(found) if found > VERSION => Err(Error::newer_format(VERSION, found)),
            // An older format can be read as it is.
            Some(found) if self.access != Access::Writable => Ok(found),
            Some(_) if self.note_targets()? => {
                Self::write_format(&*self.engine)?;
                Ok(VERSION)
            }
            Some(found) => Ok(found),
            None => Err(Error::precondition(
                "the database belongs to another program; choose another directory",
            )),
        }
    }

    /// Writes the notes that lead from targets to names, for all names. The next durable write,
    /// which writes the format, also makes the notes durable. Returns `false` if the disk is too
    /// full. The store is then used without the notes.
    fn note_targets(&self) -> Result<bool> {
        let mut after: Option<String> = None;
        loop {
            let list = |view: &dyn View| view.records(Table::Images, "", after.as_deref(), PAGE);
            let page = self.read(list)?;
            let bytes = page.iter().map(|(_, _, name)| name.len() as u64).sum();
            match self.claim_space(bytes) {
                Err(error) if error.kind() == ErrorKind::Full => return Ok(false),
                claimed => claimed?,
            }
            self.engine.transact(&mut |tx| {
                let mut names = page.iter();
                names.try_for_each(|(_, revision, name)| put_target(tx, *revision, name))?;
                Ok(false)
            })?;
            match page.into_iter().nth(PAGE - 1) {
                Some((last, ..)) => after = Some(last),
                None => return Ok(true),
            }
        }
    }

    /// Checks that the disk has room for `bytes` more and for the pending bytes of the engine, and
    /// counts `bytes` as added.
    ///
    /// # Errors
    /// `Full` if there is not enough room, before the engine writes anything; errors of the engine
    /// and of the file system.
    pub(crate) fn claim_space(&self, bytes: u64) -> Result<()> {
        self.engine
            .space()
            .claim(bytes, self.engine.pending_bytes()?)
    }

    /// Checks that the store can be written.
    ///
    /// # Errors
    /// `Denied` if the store is read-only; `Full` if the disk was full when the store was opened.
    pub(crate) fn check_writable(&self) -> Result<()> {
        match self.access {
            Access::Writable => Ok(()),
            Access::ReadOnly => Err(Error::read_only()),
            Access::Full => Err(Error::new(
                ErrorKind::Full,
                "the disk was full when the store was opened, so the store can only be read; free \
                 some space and reopen the store",
            )),
        }
    }

    /// Checks that the engine has not failed.
    ///
    /// # Errors
    /// `Corrupt` after a transaction in which the engine found damage; `FailedPrecondition` after a
    /// transaction in which it failed otherwise.
    pub(crate) fn check_usable(&self) -> Result<()> {
        match self.failed.get() {
            None => Ok(()),
            Some(ErrorKind::Corrupt) => Err(unreadable()),
            Some(_) => Err(Error::precondition(
                "an earlier write failed; check the device and reopen the store",
            )),
        }
    }

    /// Reads the tables. A panic of the engine on damaged rows becomes an error.
    ///
    /// # Errors
    /// `Corrupt` after a panic; errors of the engine; the error of `work`.
    pub(crate) fn read<T>(&self, work: impl FnOnce(&dyn View) -> Result<T>) -> Result<T> {
        caught(|| work(&*self.engine.view()?)).unwrap_or_else(|| Err(unreadable()))
    }

    /// Makes changes in a separate transaction, not in a group. Returns the result of `work`.
    pub(crate) fn write<T>(
        &self,
        durability: Durability,
        work: impl FnOnce(&mut Tx<'_>) -> Result<T, Failed>,
    ) -> Result<T> {
        Ok(self.transact(|tx| Ok((work(tx)?, durability != Durability::Relaxed)))?)
    }

    /// Gives the space of removed rows back to the file system, if the amount justifies the work.
    /// Earlier processes may have removed the rows: a process that is killed after a removal has
    /// not compacted. Does nothing if the store can only be read.
    pub(crate) fn compact(&self) -> Result<()> {
        if self.access != Access::Writable {
            return Ok(());
        }
        let removed = self.read(|view| view.meta(REMOVED))?.unwrap_or(0);
        if removed == 0 || !self.engine.compact(removed)? {
            return Ok(());
        }
        // Other jobs may have removed more during the compaction. If a crash loses this change, the
        // next compaction finds that little is left to give back.
        self.write(Durability::Relaxed, |tx| {
            let counted = tx.inner.meta(REMOVED)?.unwrap_or(0);
            tx.inner.set_meta(REMOVED, counted.saturating_sub(removed))
        })
    }

    /// Makes changes in one transaction. `work` returns a result, and whether to sync. Returns the
    /// result of `work`.
    pub(crate) fn transact<T>(
        &self,
        work: impl FnOnce(&mut Tx<'_>) -> Result<(T, bool), Failed>,
    ) -> Result<T, Failed> {
        self.check_writable().map_err(Failed::Refused)?;
        let mut numbers = lock(&self.numbers);
        let before = *numbers;
        let (mut work, mut done, mut left) = (Some(work), None, before);
        let outcome = self.engine.transact(&mut |inner| {
            let mut tx = Tx {
                inner,
                numbers: left,
                reserved: false,
                removed: 0,
                row_size: self.engine.row_size(),
                inline_max: self.engine.inline_max(),
            };
            let Some(work) = work.take() else {
                return Err(internal("a transaction ran twice"));
            };
            let (out, synced) = work(&mut tx)?;
            tx.count_removed()?;
            (done, left) = (Some(out), tx.numbers);
            // If a crash lost the reservation of a block, the block would be reserved again, and
            // its numbers would be allocated twice.
            Ok(synced || tx.reserved)
        });
        *numbers = match &outcome {
            Ok(()) => left,
            Err(Failed::Refused(_)) => before,
            Err(Failed::Broken(error)) => {
                let _ = self.failed.set(error.kind());
                // The engine may have committed the transaction nevertheless. The next transaction
                // reserves another block, so it allocates none of the same numbers.
                Numbers::default()
            }
        };
        outcome?;
        done.ok_or_else(|| internal("a transaction did not run"))
    }
}

/// Writes the note that leads from the target of an image name to the name. `name` is the value of
/// the record of the name. `revision` is the revision of this record, which the note also gets.
/// Writes nothing if the value does not parse.
pub(crate) fn put_target(
    tx: &mut dyn Transaction,
    revision: u64,
    name: &[u8],
) -> Result<(), Failed> {
    match target_note(name) {
        Some(note) => tx.put_record(Table::Notes, &note, revision, &[]),
        // `fsck` reports a record that does not parse.
        None => Ok(()),
    }
}

/// Returns the error for rows that the engine cannot read.
pub(crate) fn unreadable() -> Error {
    Error::corrupt("the database is damaged: the engine cannot read some of its rows")
        .advice("run `cas fsck --repair`, or import the images into a new store")
}

fn internal(found: &str) -> Failed {
    Failed::Broken(Error::internal(format!("{found}; please report it")))
}
