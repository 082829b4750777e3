//! A store that promises no more than the traits require. Code that works on this store works on an
//! object store.
//!
//! The store compares and swaps one key at a time, so if a change of a batch fails, the earlier
//! changes of the batch stay applied. A list is not a consistent snapshot, because the entries are
//! read at different times. Nothing can be renamed. Bytes are uploaded in parts of [`PART`] bytes
//! under a unique name, and the digest then points to the upload. `Ingest::publish` publishes the
//! blob, but leaves the batch of records to its caller. Readers fail once their blob is removed.
//! Every step yields to other tasks.

mod content;
mod ingest;
mod records;

use std::collections::BTreeMap;
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex};

use content::Bucket;
use ingest::IngestSlot;
use records::Tables;

use crate::capability::Capabilities;

/// Size in bytes of each part of an upload, except the last part. It is the minimum that S3 allows.
pub const PART: usize = 5 << 20;

/// Blobs, ingests and records in memory. Clones are handles of one store.
#[derive(Clone, Default)]
pub struct StrictStore(Arc<State>);

struct State {
    bucket: Mutex<Bucket>,
    uploads: Mutex<BTreeMap<String, IngestSlot>>,
    tables: Mutex<Tables>,
    /// How many changes are applied before the planned fault; `usize::MAX` if none is planned.
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
    /// The capabilities of the store, for content and for records: none.
    pub const CAPABILITIES: Capabilities = Capabilities::of(&[]);

    /// Returns an empty store.
    pub fn new() -> Self {
        StrictStore::default()
    }
}
