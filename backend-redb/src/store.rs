//! The store, and the opener of locations such as `redb:///path`.

use std::ops::Deref;
use std::path::Path;

use async_trait::async_trait;
use cas_core::check::Finding;
use cas_core::{Capabilities, Context, Location, Opener, Result, Store, pool};
use cas_kv::{KvStore, OpenMode, OwnedDir, Reuse, Space};

use crate::engine::RedbEngine;
use crate::file::{self, NAMES};
use crate::head::Head;

/// The conformance laws that this store does not pass, with reasons. There are none.
pub const GAPS: &[(&str, &str)] = &[];

/// Default size of the page cache in bytes.
const CACHE: usize = 64 << 20;
/// Size in bytes of the file that reserves space for a full disk: more than redb writes to open the
/// database and remove a blob.
const RESERVE: u64 = 2 << 20;

/// A store in one redb file.
pub struct RedbStore(KvStore);

impl RedbStore {
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
        Self::open_with(path.as_ref(), CACHE)
    }

    fn open_with(path: &Path, cache: usize) -> Result<Self> {
        let store = open(path, cache)
            .map_err(|error| error.backend("redb"))
            .during("open store", path.display())?;
        Ok(RedbStore(store))
    }
}

/// Gives access to the content, records and images of the store.
impl Deref for RedbStore {
    type Target = KvStore;

    fn deref(&self) -> &KvStore {
        &self.0
    }
}

fn open(path: &Path, cache: usize) -> Result<KvStore> {
    let dir = OwnedDir::claim(path, NAMES)?;
    let space = space(&dir)?;
    KvStore::open(dir, |path, mode| open_engine(path, mode, &space, cache))
}

/// Examines the database in the directory `path`, if there is or was one.
fn examine(path: &Path, repair: bool) -> Result<Option<Finding>> {
    if !OwnedDir::has_store(path, NAMES)? {
        return Ok(None);
    }
    let dir = OwnedDir::claim(path, NAMES)?;
    let space = space(&dir)?;
    KvStore::examine(&dir, repair, |path, mode| {
        open_engine(path, mode, &space, CACHE)
    })
}

fn space(dir: &OwnedDir) -> Result<Space> {
    Ok(Space::new(dir.path(), RESERVE, Reuse::Immediate)?)
}

fn open_engine(path: &Path, mode: OpenMode, space: &Space, cache: usize) -> Result<RedbEngine> {
    RedbEngine::open(
        file::open(path, mode)?,
        Head::of(path),
        mode,
        space.clone(),
        cache,
    )
}

/// Opens `redb:///path?cache=64MiB`. The path is the directory that contains the file; `cache` is
/// the size of the cache for read and written pages, by default 64 MiB.
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

    async fn examine(&self, location: &Location, repair: bool) -> Result<Vec<Finding>> {
        let path = location.path()?;
        let found = pool::run(move || {
            examine(&path, repair)
                .map_err(|error| error.backend("redb"))
                .during("examine store", path.display())
        });
        Ok(found.await?.into_iter().collect())
    }
}
