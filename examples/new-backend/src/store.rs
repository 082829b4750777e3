//! The store, and the opener that opens it at a location.

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

/// The conformance tests (laws) that this store does not pass. There are none.
pub const GAPS: &[(&str, &str)] = &[];

/// A store in one SQLite file.
pub struct SqliteStore(Arc<Engine>);

impl SqliteStore {
    /// Opens the store in the directory `path`, or creates it. The store cannot be opened again
    /// until this value and everything that it returned are dropped.
    ///
    /// # Errors
    /// `Busy` if the store is already open; `FailedPrecondition` if the database has a newer
    /// format; `Corrupt` if `cas.sqlite` is not a database; `Full` if the disk is full; errors of
    /// the file system.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let engine = Engine::open(path).map_err(|error| error.backend("sqlite"));
        Ok(SqliteStore(Arc::new(
            engine.during("open store", path.display())?,
        )))
    }

    /// Returns the content store.
    pub fn content(&self) -> Arc<dyn ContentStore> {
        Arc::new(SqliteContent(Arc::clone(&self.0)))
    }

    /// Returns the records store.
    pub fn records(&self) -> Arc<dyn Records> {
        Arc::new(SqliteRecords(Arc::clone(&self.0)))
    }

    /// Returns the image store, which keeps image names in the records store.
    pub fn images(&self) -> Arc<dyn ImageStore> {
        Arc::new(RecordImages::new(self.records()))
    }

    /// Returns the content store, the records store and the image store.
    pub fn store(&self) -> Store {
        Store {
            content: self.content(),
            records: self.records(),
            images: self.images(),
        }
    }
}

/// Opens `sqlite:///path`. `/path` is the directory that contains the file `cas.sqlite`.
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
