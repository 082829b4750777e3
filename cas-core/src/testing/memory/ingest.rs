//! Ingests in memory: the bytes are the writer's while it lives, and the desk's between writers.

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
pub(super) struct Desk(BTreeMap<String, Slot>);

struct Slot {
    /// What was written; nothing while a writer holds it.
    data: Option<BytesMut>,
    offset: u64,
    updated_at: SystemTime,
}

impl Desk {
    /// What was written under `key` so far, which is the caller's until it is put back.
    pub(super) fn take(&mut self, key: &str) -> Result<BytesMut> {
        let slot = self.0.entry(key.to_owned()).or_insert_with(|| Slot {
            data: Some(BytesMut::new()),
            offset: 0,
            updated_at: SystemTime::now(),
        });
        slot.data.take().ok_or_else(|| busy("begin", key))
    }

    pub(super) fn statuses(&self) -> Vec<IngestStatus> {
        let status = |(key, slot): (&String, &Slot)| IngestStatus {
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

    fn note(&mut self, key: &str, offset: usize) {
        if let Some(slot) = self.0.get_mut(key) {
            slot.offset = offset as u64;
            slot.updated_at = SystemTime::now();
        }
    }
}

fn busy(operation: &'static str, key: &str) -> Error {
    Error::busy("another writer holds this ingest; wait for it to end")
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
        lock(&self.store.0.desk).note(&self.key, self.data.len());
        Ok(())
    }

    async fn read_back(&mut self, offset: u64, length: usize) -> Result<Bytes> {
        let window = window(self.data.len(), offset, length);
        Ok(Bytes::copy_from_slice(&self.data[window]))
    }

    async fn rewind(&mut self) -> Result<()> {
        self.data.clear();
        lock(&self.store.0.desk).note(&self.key, 0);
        Ok(())
    }

    /// The batch and the bytes appear in one step, or neither does and the ingest is kept.
    async fn publish(
        mut self: Box<Self>,
        verified: &Verified,
        batch: &Batch,
        _: Durability,
    ) -> Result<bool> {
        verified.check(&self.key, self.offset())?;
        let mut tables = write(&self.store.0.tables);
        let mut shelf = write(&self.store.0.shelf);
        tables.commit(batch)?;
        let data = mem::take(&mut self.data).freeze();
        shelf.insert(*verified.digest(), data);
        self.published = true;
        drop((tables, shelf));
        Ok(true)
    }
}

impl Drop for MemoryIngest {
    fn drop(&mut self) {
        let mut desk = lock(&self.store.0.desk);
        if self.published {
            desk.0.remove(&self.key);
        } else if let Some(slot) = desk.0.get_mut(&self.key) {
            slot.data = Some(mem::take(&mut self.data));
        }
    }
}
