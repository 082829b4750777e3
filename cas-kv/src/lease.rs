//! One writer at a time for each key.

use std::collections::btree_map::Entry;
use std::sync::Arc;
use std::time::SystemTime;

use cas_core::{Error, Result};

use crate::kv::{Kv, lock};

/// The right to write under a key.
pub(crate) struct Lease {
    kv: Arc<Kv>,
    key: String,
}

impl Lease {
    /// The right, or `Busy`.
    pub(crate) fn take(kv: &Arc<Kv>, key: &str) -> Result<Self> {
        match lock(&kv.held).entry(key.to_owned()) {
            Entry::Occupied(_) => Err(Error::busy(
                "another writer holds this ingest; wait for it to end",
            )),
            Entry::Vacant(free) => {
                free.insert((0, SystemTime::now()));
                Ok(Lease {
                    kv: Arc::clone(kv),
                    key: key.to_owned(),
                })
            }
        }
    }

    /// Tells those who list ingests how many bytes this one holds.
    pub(crate) fn note(&self, offset: u64) {
        lock(&self.kv.held).insert(self.key.clone(), (offset, SystemTime::now()));
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        lock(&self.kv.held).remove(&self.key);
    }
}
