//! Ingests in memory. An open writer owns the bytes of its ingest. While an ingest has no open
//! writer, the store keeps the bytes of the ingest.

use std::collections::BTreeMap;
use std::mem;
use std::time::SystemTime;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};

use super::{MemoryStore, window, write};
use crate::content::{Durability, Ingest, IngestStatus, Verified};
use crate::error::{Error, Result};
use crate::records::Batch;
use crate::sync::lock;

/// The unfinished ingests, by key.
#[derive(Default)]
pub(super) struct OpenIngests(BTreeMap<String, IngestSlot>);

struct IngestSlot {
    /// The bytes, or `None` while a writer has them.
    data: Option<BytesMut>,
    offset: u64,
    updated_at: SystemTime,
}

impl OpenIngests {
    /// Returns the bytes of an ingest, which belong to the caller until it puts them back.
    pub(super) fn open(&mut self, key: &str) -> Result<BytesMut> {
        let slot = self.0.entry(key.to_owned()).or_insert_with(|| IngestSlot {
            data: Some(BytesMut::new()),
            offset: 0,
            updated_at: SystemTime::now(),
        });
        slot.data.take().ok_or_else(|| busy("begin", key))
    }

    pub(super) fn statuses(&self) -> Vec<IngestStatus> {
        let status = |(key, slot): (&String, &IngestSlot)| IngestStatus {
            key: key.clone(),
            offset: slot.offset,
            updated_at: slot.updated_at,
        };
        self.0.iter().map(status).collect()
    }

    pub(super) fn discard(&mut self, key: &str) -> Result<bool> {
        match self.0.get(key) {
            None => Ok(false),
            Some(slot) if slot.data.is_none() => Err(busy("discard", key)),
            Some(_) => Ok(self.0.remove(key).is_some()),
        }
    }

    fn set_offset(&mut self, key: &str, offset: usize) {
        if let Some(slot) = self.0.get_mut(key) {
            slot.offset = offset as u64;
            slot.updated_at = SystemTime::now();
        }
    }
}

fn busy(operation: &'static str, key: &str) -> Error {
    Error::busy("another writer has this ingest open; wait until that writer ends")
        .operation(operation)
        .subject(key)
}

pub(super) struct MemoryIngest {
    store: MemoryStore,
    key: String,
    data: BytesMut,
    published: bool,
}

impl MemoryIngest {
    pub(super) fn new(store: MemoryStore, key: &str, data: BytesMut) -> Self {
        MemoryIngest {
            store,
            key: key.to_owned(),
            data,
            published: false,
        }
    }
}

#[async_trait]
impl Ingest for MemoryIngest {
    fn key(&self) -> &str {
        &self.key
    }

    fn offset(&self) -> u64 {
        self.data.len() as u64
    }

    async fn append(&mut self, data: Bytes) -> Result<()> {
        self.data.extend_from_slice(&data);
        lock(&self.store.0.ingests).set_offset(&self.key, self.data.len());
        Ok(())
    }

    async fn read_back(&mut self, offset: u64, length: usize) -> Result<Bytes> {
        let window = window(self.data.len(), offset, length);
        Ok(Bytes::copy_from_slice(&self.data[window]))
    }

    async fn rewind(&mut self) -> Result<()> {
        self.data.clear();
        lock(&self.store.0.ingests).set_offset(&self.key, 0);
        Ok(())
    }

    /// The batch and the bytes are stored in one step. If this fails, neither is stored, and the
    /// ingest keeps its bytes.
    async fn publish(
        mut self: Box<Self>,
        verified: &Verified,
        batch: &Batch,
        _: Durability,
    ) -> Result<bool> {
        verified.check(&self.key, self.offset())?;
        let mut tables = write(&self.store.0.tables);
        let mut blobs = write(&self.store.0.blobs);
        tables.commit(batch)?;
        let data = mem::take(&mut self.data).freeze();
        blobs.insert(*verified.digest(), data);
        self.published = true;
        drop((tables, blobs));
        Ok(true)
    }
}

impl Drop for MemoryIngest {
    fn drop(&mut self) {
        let mut ingests = lock(&self.store.0.ingests);
        if self.published {
            ingests.0.remove(&self.key);
        } else if let Some(slot) = ingests.0.get_mut(&self.key) {
            slot.data = Some(mem::take(&mut self.data));
        }
    }
}
