//! The unfinished ingests of this process.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use cas_core::content::IngestStatus;
use cas_core::{Error, Result};

use super::Upload;

/// Ingests by key.
#[derive(Default)]
pub(crate) struct Desk(Mutex<BTreeMap<String, Slot>>);

/// An ingest; while a writer holds it, the upload is the writer's.
struct Slot {
    upload: Option<Upload>,
    offset: u64,
    updated_at: SystemTime,
}

impl Desk {
    pub(super) fn take(&self, key: &str) -> Result<Upload> {
        match self.slots().entry(key.to_owned()) {
            Entry::Occupied(mut slot) => slot
                .get_mut()
                .upload
                .take()
                .ok_or_else(|| busy("begin", key)),
            Entry::Vacant(free) => {
                let upload = Upload::new()?;
                free.insert(Slot {
                    upload: None,
                    offset: 0,
                    updated_at: SystemTime::now(),
                });
                Ok(upload)
            }
        }
    }

    /// Gives up a writer's hold; without an upload the ingest is over.
    pub(super) fn put_back(&self, key: &str, upload: Option<Upload>) {
        let mut slots = self.slots();
        match (slots.get_mut(key), upload) {
            (Some(slot), Some(upload)) => slot.upload = Some(upload),
            _ => {
                slots.remove(key);
            }
        }
    }

    /// Takes out an ingest that nobody holds.
    pub(super) fn discard(&self, key: &str) -> Result<Option<Upload>> {
        let mut slots = self.slots();
        match slots.get(key) {
            None => Ok(None),
            Some(slot) if slot.upload.is_none() => Err(busy("discard", key)),
            Some(_) => Ok(slots.remove(key).and_then(|slot| slot.upload)),
        }
    }

    pub(super) fn note(&self, key: &str, offset: u64) {
        if let Some(slot) = self.slots().get_mut(key) {
            slot.offset = offset;
            slot.updated_at = SystemTime::now();
        }
    }

    pub(crate) fn list(&self) -> Vec<IngestStatus> {
        let status = |(key, slot): (&String, &Slot)| IngestStatus {
            key: key.clone(),
            offset: slot.offset,
            updated_at: slot.updated_at,
        };
        self.slots().iter().map(status).collect()
    }

    /// No panic leaves a slot half changed: each change is one assignment.
    fn slots(&self) -> MutexGuard<'_, BTreeMap<String, Slot>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn busy(operation: &'static str, key: &str) -> Error {
    Error::busy("another writer holds this ingest; wait for it to end")
        .operation(operation)
        .subject(key)
}
