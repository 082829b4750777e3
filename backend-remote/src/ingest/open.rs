//! The unfinished ingests of this process.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::{Mutex, MutexGuard};
use std::time::SystemTime;

use cas_core::content::IngestStatus;
use cas_core::sync::lock;
use cas_core::{Error, Result};

use super::upload::Upload;

/// Ingests by key.
#[derive(Default)]
pub(crate) struct OpenIngests(Mutex<BTreeMap<String, IngestSlot>>);

struct IngestSlot {
    /// `None` while a writer has it.
    upload: Option<Upload>,
    offset: u64,
    updated_at: SystemTime,
}

impl OpenIngests {
    /// Returns the upload of `key` to its writer. Creates one if there is none.
    ///
    /// # Errors
    /// `Busy` while another writer has it.
    pub(super) fn acquire(&self, key: &str) -> Result<Upload> {
        match self.slots().entry(key.to_owned()) {
            Entry::Occupied(mut slot) => slot
                .get_mut()
                .upload
                .take()
                .ok_or_else(|| busy("begin", key)),
            Entry::Vacant(free) => {
                let upload = Upload::new()?;
                free.insert(IngestSlot {
                    upload: None,
                    offset: 0,
                    updated_at: SystemTime::now(),
                });
                Ok(upload)
            }
        }
    }

    /// Takes the upload back from its writer. Without an upload the ingest is over.
    pub(super) fn release(&self, key: &str, upload: Option<Upload>) {
        let mut slots = self.slots();
        match (slots.get_mut(key), upload) {
            (Some(slot), Some(upload)) => slot.upload = Some(upload),
            _ => {
                slots.remove(key);
            }
        }
    }

    /// Removes an ingest. Returns `None` if there is none.
    ///
    /// # Errors
    /// `Busy` while a writer has it.
    pub(super) fn remove(&self, key: &str) -> Result<Option<Upload>> {
        let mut slots = self.slots();
        match slots.get(key) {
            None => Ok(None),
            Some(slot) if slot.upload.is_none() => Err(busy("discard", key)),
            Some(_) => Ok(slots.remove(key).and_then(|slot| slot.upload)),
        }
    }

    pub(super) fn set_offset(&self, key: &str, offset: u64) {
        if let Some(slot) = self.slots().get_mut(key) {
            slot.offset = offset;
            slot.updated_at = SystemTime::now();
        }
    }

    /// Returns the status of each ingest, in the order of their keys.
    pub(crate) fn list(&self) -> Vec<IngestStatus> {
        let status = |(key, slot): (&String, &IngestSlot)| IngestStatus {
            key: key.clone(),
            offset: slot.offset,
            updated_at: slot.updated_at,
        };
        self.slots().iter().map(status).collect()
    }

    /// Returns the locked slots. No change can panic halfway, so a poisoned lock is used as well.
    fn slots(&self) -> MutexGuard<'_, BTreeMap<String, IngestSlot>> {
        lock(&self.0)
    }
}

fn busy(operation: &'static str, key: &str) -> Error {
    Error::busy("another writer has this ingest open; wait until it ends")
        .operation(operation)
        .subject(key)
}
