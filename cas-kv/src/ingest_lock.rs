//! One writer at a time for each ingest key.

use std::collections::btree_map::Entry;
use std::sync::Arc;
use std::time::SystemTime;

use cas_core::sync::lock;
use cas_core::{Error, Result};

use crate::kv::Kv;

/// The exclusive right to write under a key. Dropping the value ends the right.
pub(crate) struct IngestLock {
    kv: Arc<Kv>,
    key: String,
}

impl IngestLock {
    /// Locks `key`.
    ///
    /// # Errors
    /// `Busy` if another writer holds the lock.
    pub(crate) fn acquire(kv: &Arc<Kv>, key: &str) -> Result<Self> {
        match lock(&kv.open_ingests).entry(key.to_owned()) {
            Entry::Occupied(_) => Err(Error::busy(
                "another writer has this ingest open; wait until that writer ends",
            )),
            Entry::Vacant(vacant) => {
                vacant.insert((0, SystemTime::now()));
                Ok(IngestLock {
                    kv: Arc::clone(kv),
                    key: key.to_owned(),
                })
            }
        }
    }

    /// Sets what `ContentStore::ingests` reports for this ingest: `offset` as the number of bytes,
    /// and the current time as `updated_at`.
    pub(crate) fn set_offset(&self, offset: u64) {
        lock(&self.kv.open_ingests).insert(self.key.clone(), (offset, SystemTime::now()));
    }
}

impl Drop for IngestLock {
    fn drop(&mut self) {
        lock(&self.kv.open_ingests).remove(&self.key);
    }
}
