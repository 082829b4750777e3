//! The store, and the opener of locations such as `rocksdb:///path`.

use std::ops::Deref;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use async_trait::async_trait;
use cas_core::check::Finding;
use cas_core::sync::lock;
use cas_core::{Capabilities, Context, Location, Opener, Result, Store, pool};
use cas_kv::{FileNames, KvStore, OwnedDir, Reuse, Space};

use crate::database::Database;
use crate::engine::RocksEngine;
use crate::options::Tuning;

/// The conformance laws that this store does not pass, with reasons. There are none.
pub const GAPS: &[(&str, &str)] = &[];

/// File names in the directory of a store.
const NAMES: FileNames = FileNames {
    engine: "RocksDB",
    database: "db",
    new: "db.new",
};
/// Size of the reserve in bytes: more than RocksDB writes to open a database and to remove a blob.
const RESERVE: u64 = 8 << 20;

/// A store in one RocksDB database.
pub struct RocksStore {
    store: KvStore,
    database: Weak<Database>,
}

impl RocksStore {
    /// Opens the store in the directory `path`, or creates it. Other processes cannot open it until
    /// the last handle is dropped; but several processes that cannot write to the directory can
    /// have it open at the same time.
    ///
    /// # Errors
    /// `Busy` if another process has it open, with the pid of that process if it is known;
    /// `FailedPrecondition` for a directory with other contents or for a newer format; `Corrupt`
    /// for a damaged database; `Full` if the disk has no room to create or upgrade the store;
    /// errors of the file system.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        Self::open_with(path, Tuning::default())
    }

    /// Opens the store like [`RocksStore::open`], with other options.
    ///
    /// # Errors
    /// As [`RocksStore::open`].
    pub fn open_with(path: impl AsRef<Path>, tuning: Tuning) -> Result<Self> {
        let path = path.as_ref();
        open(path, tuning)
            .map_err(|error| error.backend("rocksdb"))
            .during("open store", path.display())
    }

    /// Returns the statistics of the engine since it was opened, as text, or `None` without
    /// [`Tuning::statistics`].
    pub fn statistics(&self) -> Option<String> {
        self.database.upgrade()?.options.get_statistics()
    }
}

/// Gives access to the content, records and images of the store.
impl Deref for RocksStore {
    type Target = KvStore;

    fn deref(&self) -> &KvStore {
        &self.store
    }
}

fn open(path: &Path, tuning: Tuning) -> Result<RocksStore> {
    let dir = OwnedDir::claim(path, NAMES)?;
    let space = Space::new(dir.path(), RESERVE, Reuse::AfterCompaction)?;
    let last = Mutex::new(Weak::new());
    let store = KvStore::open(dir, |path, mode| {
        let engine = RocksEngine::open(path, mode, space.clone(), tuning)?;
        *lock(&last) = Arc::downgrade(&engine.database());
        Ok(engine)
    })?;
    let database = last.into_inner().unwrap_or_else(PoisonError::into_inner);
    Ok(RocksStore { store, database })
}

/// Examines the database in the directory `path`, if there is or was one.
fn examine(path: &Path, repair: bool, tuning: Tuning) -> Result<Option<Finding>> {
    if !OwnedDir::has_store(path, NAMES)? {
        return Ok(None);
    }
    let dir = OwnedDir::claim(path, NAMES)?;
    let space = Space::new(dir.path(), RESERVE, Reuse::AfterCompaction)?;
    KvStore::examine(&dir, repair, |path, mode| {
        RocksEngine::open(path, mode, space.clone(), tuning)
    })
}

/// Opens `rocksdb:///path?cache=64MiB&buffer=16MiB&jobs=2&garbage=25&statistics=true`. The path is
/// the directory that contains the database; [`Tuning`] describes the options.
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
        let tuning = Tuning::from_location(location)?;
        let path = location.path()?;
        pool::run(move || RocksStore::open_with(&path, tuning).map(|store| store.store())).await
    }

    async fn examine(&self, location: &Location, repair: bool) -> Result<Vec<Finding>> {
        let tuning = Tuning::from_location(location)?;
        let path = location.path()?;
        let found = pool::run(move || {
            examine(&path, repair, tuning)
                .map_err(|error| error.backend("rocksdb"))
                .during("examine store", path.display())
        });
        Ok(found.await?.into_iter().collect())
    }
}
