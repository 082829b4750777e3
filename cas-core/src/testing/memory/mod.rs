//! The reference store: blobs and records in memory, lost when the last handle is dropped.
//!
//! This store is the simplest implementation of the storage traits. Tests compare other stores with
//! it, and use it as a member of [compositions](crate::compose).

mod content;
mod ingest;
mod records;

use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use async_trait::async_trait;
use content::BlobMap;
use ingest::OpenIngests;
use records::Tables;

use crate::capability::{Capabilities, Capability};
use crate::error::Result;
use crate::image::RecordImages;
use crate::location::Location;
use crate::registry::Opener;
use crate::store::Store;

/// Blobs, ingests and records in memory. Clones are handles of one store.
#[derive(Clone, Default)]
pub struct MemoryStore(Arc<State>);

#[derive(Default)]
struct State {
    /// Locked before `blobs` if both are needed.
    tables: RwLock<Tables>,
    blobs: RwLock<BlobMap>,
    ingests: Mutex<OpenIngests>,
}

impl MemoryStore {
    /// The capabilities of the store, for content and for records.
    pub const CAPABILITIES: Capabilities =
        Capabilities::of(&[Capability::Atomic, Capability::Joint]);

    /// Returns an empty store.
    pub fn new() -> Self {
        MemoryStore::default()
    }

    /// Returns the store together with an image store, which keeps the images as records of this
    /// store.
    pub fn with_images(self) -> Store {
        let store = Arc::new(self);
        Store {
            content: store.clone(),
            records: store.clone(),
            images: Arc::new(RecordImages::new(store)),
        }
    }
}

/// Opens `memory://`: a new, empty store each time.
pub struct MemoryOpener;

#[async_trait]
impl Opener for MemoryOpener {
    fn scheme(&self) -> &'static str {
        "memory"
    }

    fn capabilities(&self) -> Capabilities {
        MemoryStore::CAPABILITIES
    }

    fn gaps(&self) -> &'static [(&'static str, &'static str)] {
        &[]
    }

    async fn open(&self, location: &Location) -> Result<Store> {
        location.check_options(&[])?;
        Ok(MemoryStore::new().with_images())
    }
}

/// Locks for reading, even after a panic. The state is never half changed, because nothing can
/// panic in the middle of a change.
fn read<T>(lock: &RwLock<T>) -> RwLockReadGuard<'_, T> {
    lock.read().unwrap_or_else(PoisonError::into_inner)
}

fn write<T>(lock: &RwLock<T>) -> RwLockWriteGuard<'_, T> {
    lock.write().unwrap_or_else(PoisonError::into_inner)
}

/// Returns the range, within `held` bytes, that a read of `length` bytes at `offset` returns.
pub(crate) fn window(held: usize, offset: u64, length: usize) -> Range<usize> {
    let start = usize::try_from(offset).map_or(held, |at| at.min(held));
    start..start.saturating_add(length).min(held)
}
