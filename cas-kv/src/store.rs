//! The store as a whole.

use std::path::Path;
use std::sync::Arc;

use cas_core::image::RecordImages;
use cas_core::{ContentStore, ImageStore, Records, Result, Store};

use crate::content::KvContent;
use crate::engine::Engine;
use crate::kv::Kv;
use crate::place::Place;
use crate::records::KvRecords;

/// A store over an engine.
#[derive(Clone)]
pub struct KvStore {
    content: Arc<KvContent>,
    records: Arc<KvRecords>,
    images: Arc<RecordImages>,
}

impl KvStore {
    /// The store at `place`, over the engine that `open` brings for a database at a path, and makes
    /// there where it is told that it is new.
    ///
    /// # Errors
    /// `FailedPrecondition` where there is another format or none; those of the engine.
    pub fn open<E: Engine>(place: Place, open: impl Fn(&Path, bool) -> Result<E>) -> Result<Self> {
        if !place.database().try_exists()? {
            let new = place.clear()?;
            Kv::make(&open(&new, true)?)?;
            place.publish()?;
        }
        let engine = open(&place.database(), false)?;
        let kv = Arc::new(Kv::open(Box::new(engine), place)?);
        let records = Arc::new(KvRecords(Arc::clone(&kv)));
        let home: Arc<dyn Records> = records.clone();
        Ok(KvStore {
            content: Arc::new(KvContent(kv)),
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
