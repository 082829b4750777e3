//! The reference store: bytes and records in memory, gone when the last handle is dropped.
//!
//! It is the plainest reading of the contract. Other stores are compared with it, wrappers and
//! engines are tested over it.

mod content;
mod ingest;
mod records;

use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use async_trait::async_trait;
use content::Shelf;
use ingest::Desk;
use records::Tables;

use crate::capability::{Capabilities, Capability};
use crate::error::Result;
use crate::image::RecordImages;
use crate::location::Location;
use crate::registry::Opener;
use crate::store::Store;

/// Blobs, ingests and records in memory; clones are handles of one store.
#[derive(Clone, Default)]
pub struct MemoryStore(Arc<State>);

#[derive(Default)]
struct State {
    /// Locked before `shelf` wherever both are.
    tables: RwLock<Tables>,
    shelf: RwLock<Shelf>,
    desk: Mutex<Desk>,
}

impl MemoryStore {
    /// What it promises, as content and as records.
    pub const CAPABILITIES: Capabilities =
        Capabilities::of(&[Capability::Atomic, Capability::Joint]);

    /// An empty store.
    pub fn new() -> Self {
        MemoryStore::default()
    }

    /// The same store with names, which are records of it too.
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

/// No state is left half changed by a panic: each change is one insertion or removal.
fn read<T>(lock: &RwLock<T>) -> RwLockReadGuard<'_, T> {
    lock.read().unwrap_or_else(PoisonError::into_inner)
}

fn write<T>(lock: &RwLock<T>) -> RwLockWriteGuard<'_, T> {
    lock.write().unwrap_or_else(PoisonError::into_inner)
}

/// The part of `held` bytes that a read of `length` at `offset` gets.
pub(crate) fn window(held: usize, offset: u64, length: usize) -> Range<usize> {
    let start = usize::try_from(offset).map_or(held, |at| at.min(held));
    start..start.saturating_add(length).min(held)
}
