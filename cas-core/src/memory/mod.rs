//! The reference store: bytes and records in memory, gone when the last handle is dropped.
//!
//! It is the plainest reading of the contract. Other stores are compared with it, wrappers and
//! engines are tested over it.

mod content;
mod ingest;
mod records;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use content::Shelf;
use ingest::Desk;
use records::Tables;

use crate::capability::{Capabilities, Capability};

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
}

/// No state is left half changed by a panic: each change is one insertion or removal.
fn read<T>(lock: &RwLock<T>) -> RwLockReadGuard<'_, T> {
    lock.read().unwrap_or_else(PoisonError::into_inner)
}

fn write<T>(lock: &RwLock<T>) -> RwLockWriteGuard<'_, T> {
    lock.write().unwrap_or_else(PoisonError::into_inner)
}

fn lock<T>(lock: &Mutex<T>) -> MutexGuard<'_, T> {
    lock.lock().unwrap_or_else(PoisonError::into_inner)
}
