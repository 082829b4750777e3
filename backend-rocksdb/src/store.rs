//! The store as a whole, and how it is opened.

use std::ops::Deref;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use async_trait::async_trait;
use cas_core::{Capabilities, Context, Location, Opener, Result, Store, pool};
use cas_kv::{KvStore, Names, Place, Space};

use crate::database::Database;
use crate::engine::RocksEngine;
use crate::options::Tuning;

/// Laws that this store does not keep: none.
pub const GAPS: &[(&str, &str)] = &[];

/// What is in the directory of a store.
const NAMES: Names = Names {
    engine: "RocksDB",
    database: "db",
    new: "db.new",
};
/// Size of the reserve: more than an opening and a removal write.
const RESERVE: u64 = 8 << 20;

/// A store in one database.
pub struct RocksStore {
    store: KvStore,
    database: Weak<Database>,
}

impl RocksStore {
    /// Opens the store in the directory `path`, and makes it where nothing is. This process is
    /// its only owner until the last handle is dropped.
    ///
    /// # Errors
    /// `Busy`, naming the process that has it open; `FailedPrecondition` for a directory with
    /// something else in it or a newer format; `Corrupt`; `Full`; those of the file system.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        Self::open_with(path, Tuning::default())
    }

    /// The same with an engine that is set up otherwise.
    ///
    /// # Errors
    /// As [`RocksStore::open`].
    pub fn open_with(path: impl AsRef<Path>, tuning: Tuning) -> Result<Self> {
        let path = path.as_ref();
        open(path, tuning)
            .map_err(|error| error.backend("rocksdb"))
            .during("open store", path.display())
    }

    /// What the engine has counted since it was opened, as its own text; nothing without
    /// [`Tuning::statistics`].
    pub fn statistics(&self) -> Option<String> {
        self.database.upgrade()?.options.get_statistics()
    }
}

/// Its bytes, records and names.
impl Deref for RocksStore {
    type Target = KvStore;

    fn deref(&self) -> &KvStore {
        &self.store
    }
}

fn open(path: &Path, tuning: Tuning) -> Result<RocksStore> {
    let place = Place::own(path, NAMES)?;
    let space = Space::new(place.dir(), RESERVE, false)?;
    let last = Mutex::new(Weak::new());
    let store = KvStore::open(place, |path, new| {
        let engine = RocksEngine::open(path, new, space.clone(), tuning)?;
        *last.lock().unwrap_or_else(PoisonError::into_inner) = Arc::downgrade(&engine.database());
        Ok(engine)
    })?;
    let database = last.into_inner().unwrap_or_else(PoisonError::into_inner);
    Ok(RocksStore { store, database })
}

/// Opens `rocksdb:///path?cache=64MiB&buffer=16MiB&jobs=2&garbage=25&statistics=true`: a directory,
/// with the database in it; see [`Tuning`].
#[derive(Clone, Copy, Debug, Default)]
pub struct RocksOpener;

#[async_trait]
impl Opener for RocksOpener {
    fn scheme(&self) -> &'static str {
        "rocksdb"
    }

    fn capabilities(&self) -> Capabilities {
        cas_kv::CAPABILITIES
    }

    fn gaps(&self) -> &'static [(&'static str, &'static str)] {
        GAPS
    }

    async fn open(&self, location: &Location) -> Result<Store> {
        let tuning = Tuning::of(location)?;
        let path = location.path()?;
        pool::run(move || RocksStore::open_with(&path, tuning).map(|store| store.store())).await
    }
}
