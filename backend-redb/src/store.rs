//! The store as a whole, and how it is opened.

use std::ops::Deref;
use std::path::Path;

use async_trait::async_trait;
use cas_core::{Capabilities, Context, Location, Opener, Result, Store, pool};
use cas_kv::{KvStore, Place, Space};

use crate::engine::RedbEngine;
use crate::file::{self, NAMES};

/// Laws that this store does not keep: none.
pub const GAPS: &[(&str, &str)] = &[];

/// Memory that the engine keeps pages in, unless the location says otherwise.
const CACHE: usize = 64 << 20;
/// Size of the reserve: more than the pages of a removal and of an opening.
const RESERVE: u64 = 2 << 20;

/// A store in one file.
pub struct RedbStore(KvStore);

impl RedbStore {
    /// Opens the store in the directory `path`, and makes it where nothing is. This process is
    /// its only owner until the last handle is dropped.
    ///
    /// # Errors
    /// `Busy`, naming the process that has it open; `FailedPrecondition` for a directory with
    /// something else in it or a newer format; `Corrupt`; `Full`; those of the file system.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        Self::open_with(path.as_ref(), CACHE)
    }

    fn open_with(path: &Path, cache: usize) -> Result<Self> {
        let store = open(path, cache)
            .map_err(|error| error.backend("redb"))
            .during("open store", path.display())?;
        Ok(RedbStore(store))
    }
}

/// Its bytes, records and names.
impl Deref for RedbStore {
    type Target = KvStore;

    fn deref(&self) -> &KvStore {
        &self.0
    }
}

fn open(path: &Path, cache: usize) -> Result<KvStore> {
    let place = Place::own(path, NAMES)?;
    let space = Space::new(place.dir(), RESERVE, true)?;
    KvStore::open(place, |path, new| {
        RedbEngine::open(file::open(path, new)?, space.clone(), cache)
    })
}

/// Opens `redb:///path?cache=64MiB`: a directory, with the file in it. `cache` is the memory that
/// pages are kept in, read and written.
#[derive(Clone, Copy, Debug, Default)]
pub struct RedbOpener;

#[async_trait]
impl Opener for RedbOpener {
    fn scheme(&self) -> &'static str {
        "redb"
    }

    fn capabilities(&self) -> Capabilities {
        cas_kv::CAPABILITIES
    }

    fn gaps(&self) -> &'static [(&'static str, &'static str)] {
        GAPS
    }

    async fn open(&self, location: &Location) -> Result<Store> {
        location.check_options(&["cache"])?;
        let path = location.path()?;
        let cache = location.size_option("cache")?;
        let cache = cache.map_or(CACHE, |size| usize::try_from(size).unwrap_or(usize::MAX));
        pool::run(move || RedbStore::open_with(&path, cache).map(|store| store.store())).await
    }
}
