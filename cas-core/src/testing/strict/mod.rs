//! A store as unhelpful as the contract allows; what works on it works on an object store.
//!
//! It compares and swaps one key at a time, so a batch that fails leaves a prefix. Its lists are
//! no snapshots: each entry is of the moment it was read. It has no rename: bytes are uploaded
//! in parts of [`PART`] under a name of their own, and the digest points there. It is not the
//! home of the batch of a publish, readers fail once their blob is removed, and every step
//! yields to whoever else wants to run.

mod content;
mod ingest;
mod records;

use std::collections::BTreeMap;
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex};

use content::Bucket;
use ingest::Slot;
use records::Tables;

use crate::capability::Capabilities;

/// Least size of every part of an upload but the last, in bytes, as S3 wants it.
pub const PART: usize = 5 << 20;

/// Blobs, ingests and records in memory, kept grudgingly; clones are handles of one store.
#[derive(Clone, Default)]
pub struct StrictStore(Arc<State>);

struct State {
    bucket: Mutex<Bucket>,
    uploads: Mutex<BTreeMap<String, Slot>>,
    tables: Mutex<Tables>,
    /// Changes that are still applied before the planned fault; `usize::MAX` plans none.
    healthy: AtomicUsize,
}

impl Default for State {
    fn default() -> Self {
        State {
            bucket: Mutex::default(),
            uploads: Mutex::default(),
            tables: Mutex::default(),
            healthy: AtomicUsize::new(usize::MAX),
        }
    }
}

impl StrictStore {
    /// What it promises: nothing beyond the least.
    pub const CAPABILITIES: Capabilities = Capabilities::of(&[]);

    /// An empty store.
    pub fn new() -> Self {
        StrictStore::default()
    }
}
