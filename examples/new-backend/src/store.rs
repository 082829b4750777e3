//! The store as a whole, and how it is opened.

use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use cas_core::image::RecordImages;
use cas_core::{
    Capabilities, ContentStore, Context, ImageStore, Location, Opener, Records, Result, Store, pool,
};

use crate::CAPABILITIES;
use crate::content::SqliteContent;
use crate::engine::Engine;
use crate::records::SqliteRecords;

/// Laws that this store does not keep: none.
pub const GAPS: &[(&str, &str)] = &[];

/// A store in one SQLite file.
pub struct SqliteStore(Arc<Engine>);

impl SqliteStore {
    /// Opens the store in the directory `path`, and makes it where nothing is. This process is
    /// its only owner until the last handle is dropped.
    ///
    /// # Errors
    /// `Busy` while it is open elsewhere; `FailedPrecondition` for a newer schema; `Corrupt` for
    /// what is no database; `Full`; those of the file system.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let engine = Engine::open(path).map_err(|error| error.backend("sqlite"));
        Ok(SqliteStore(Arc::new(
            engine.during("open store", path.display())?,
        )))
    }

    /// The bytes.
    pub fn content(&self) -> Arc<dyn ContentStore> {
        Arc::new(SqliteContent(Arc::clone(&self.0)))
    }

    /// The home of records.
    pub fn records(&self) -> Arc<dyn Records> {
        Arc::new(SqliteRecords(Arc::clone(&self.0)))
    }

    /// The names, which are records too.
    pub fn images(&self) -> Arc<dyn ImageStore> {
        Arc::new(RecordImages::new(self.records()))
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

/// Opens `sqlite:///path`: a directory, with the file in it.
#[derive(Clone, Copy, Debug, Default)]
pub struct SqliteOpener;

#[async_trait]
impl Opener for SqliteOpener {
    fn scheme(&self) -> &'static str {
        "sqlite"
    }

    fn capabilities(&self) -> Capabilities {
        CAPABILITIES
    }

    fn gaps(&self) -> &'static [(&'static str, &'static str)] {
        GAPS
    }

    async fn open(&self, location: &Location) -> Result<Store> {
        location.check_options(&[])?;
        let path = location.path()?;
        pool::run(move || SqliteStore::open(path).map(|store| store.store())).await
    }
}
