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
    /// `None` while a writer has the upload.
    upload: Option<Upload>,
    /// The version of the upload.
    version: u64,
    offset: u64,
    updated_at: SystemTime,
}

impl OpenIngests {
    /// Gives a writer the upload of `key` until [`Self::release`]. Creates an upload if there is
    /// none, or if a collection may have removed the parts of the existing upload.
    ///
    /// # Errors
    /// `Busy` while another writer has the upload.
    pub(super) fn acquire(&self, key: &str) -> Result<Upload> {
        match self.slots().entry(key.to_owned()) {
            Entry::Occupied(mut slot) => {
                let slot = slot.get_mut();
                let upload = slot.upload.as_mut().ok_or_else(|| busy("begin", key))?;
                if upload.is_stalled() {
                    *upload = Upload::new()?;
                    (slot.version, slot.offset) = (upload.version(), 0);
                }
                slot.upload.take().ok_or_else(|| busy("begin", key))
            }
            Entry::Vacant(free) => {
                let upload = Upload::new()?;
                free.insert(IngestSlot {
                    upload: None,
                    version: upload.version(),
                    offset: 0,
                    updated_at: SystemTime::now(),
                });
                Ok(upload)
            }
        }
    }

    /// Takes the upload back from its writer. If `upload` is `None`, the ingest has ended, and is
    /// removed.
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
    /// `Busy` while a writer has the upload.
    pub(super) fn remove(&self, key: &str) -> Result<Option<Upload>> {
        let mut slots = self.slots();
        match slots.get(key) {
            None => Ok(None),
            Some(slot) if slot.upload.is_none() => Err(busy("discard", key)),
            Some(_) => Ok(slots.remove(key).and_then(|slot| slot.upload)),
        }
    }

    /// Sets the version, the offset and the time of the ingest `key` after a change of its upload.
    pub(super) fn note(&self, key: &str, upload: &Upload) {
        if let Some(slot) = self.slots().get_mut(key) {
            (slot.version, slot.offset) = (upload.version(), upload.offset());
            slot.updated_at = SystemTime::now();
        }
    }

    /// Returns the versions of all uploads.
    pub(crate) fn versions(&self) -> Vec<u64> {
        self.slots().values().map(|slot| slot.version).collect()
    }

    /// Returns the status of each ingest, in the order of the keys.
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
    Error::busy("another writer has this ingest open; wait until that writer ends")
        .operation(operation)
        .subject(key)
}
