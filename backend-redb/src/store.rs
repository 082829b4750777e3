//! The store as a whole, and how it is opened.

use std::fs::File;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use cas_core::content::Durability;
use cas_core::image::RecordImages;
use cas_core::{
    Capabilities, Capability, ContentStore, Context, Error, ImageStore, Location, Opener, Records,
    Result, Store, pool,
};
use redb::{Builder, Database, ReadableDatabase};

use crate::content::RedbContent;
use crate::disk::Disk;
use crate::engine::Engine;
use crate::error::{corrupt, sort};
use crate::place::{FILE, Place};
use crate::records::RedbRecords;
use crate::space::Space;
use crate::tables::{FORMAT, META};

/// What one file promises.
pub(crate) const CAPABILITIES: Capabilities = Capabilities::of(&[
    Capability::Durable,
    Capability::Resume,
    Capability::Atomic,
    Capability::Joint,
]);

/// Laws that this store does not keep: none.
pub const GAPS: &[(&str, &str)] = &[];

/// The format of the tables that this version reads and writes.
const VERSION: u64 = 1;
/// Memory that the engine keeps pages in, unless the location says otherwise.
const CACHE: usize = 64 << 20;

/// A store in one file.
pub struct RedbStore {
    content: Arc<RedbContent>,
    records: Arc<RedbRecords>,
    images: Arc<RecordImages>,
}

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
        let engine = open(path, cache)
            .map_err(|error| error.backend("redb"))
            .during("open store", path.display())?;
        let records = Arc::new(RedbRecords(Arc::clone(&engine)));
        let home: Arc<dyn Records> = records.clone();
        Ok(RedbStore {
            content: Arc::new(RedbContent(engine)),
            images: Arc::new(RecordImages::new(home)),
            records,
        })
    }

    /// The bytes.
    pub fn content(&self) -> Arc<dyn ContentStore> {
        self.content.clone()
    }

    /// The home of records.
    pub fn records(&self) -> Arc<dyn Records> {
        self.records.clone()
    }

    /// The names, which are records too.
    pub fn images(&self) -> Arc<dyn ImageStore> {
        self.images.clone()
    }

    /// All three as one.
    pub fn store(&self) -> Store {
        Store {
            content: self.content(),
            records: self.records(),
            images: self.images(),
        }
    }
}

fn open(path: &Path, cache: usize) -> Result<Arc<Engine>> {
    let place = Place::own(path)?;
    let (file, new) = match place.file()? {
        Some(file) => (file, false),
        None => (place.new_file()?, true),
    };
    let space = Space::new(place.dir(), file.try_clone()?);
    let db = database(file, space.clone(), cache)?;
    if !new {
        check_format(&db)?;
    }
    let engine = Engine::new(db, space, place);
    if new {
        engine.write(Durability::Full, |tables| tables.set_format(VERSION))?;
        engine.publish()?;
    }
    engine.reap()?;
    engine.space.keep_back();
    Ok(Arc::new(engine))
}

/// The engine gives up on some damaged files with a panic.
fn database(file: File, space: Space, cache: usize) -> Result<Database> {
    let open = || {
        Builder::new()
            .set_cache_size(cache)
            .create_with_backend(Disk { file, space })
    };
    let opened = catch_unwind(AssertUnwindSafe(open));
    let opened = opened.map_err(|_| corrupt("the engine cannot read it"))?;
    opened.map_err(sort)
}

fn check_format(db: &Database) -> Result<()> {
    let tx = db.begin_read().map_err(sort)?;
    let found = match tx.open_table(META) {
        Ok(meta) => meta.get(FORMAT).map_err(sort)?.map(|found| found.value()),
        Err(redb::TableError::Storage(error)) => return Err(sort(error)),
        Err(_) => None,
    };
    match found {
        Some(VERSION) => Ok(()),
        Some(newer) => Err(Error::precondition(format!(
            "expected format {VERSION}, found {newer}; use the release that wrote it"
        ))),
        None => Err(Error::precondition(format!(
            "{FILE} is a database of another program; choose another directory"
        ))),
    }
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
        CAPABILITIES
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
