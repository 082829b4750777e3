//! Uploads in parts. Bytes that do not fill a part yet are kept in the tail of the upload.

use std::mem;
use std::time::SystemTime;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};

use super::{PART, StrictStore};
use crate::content::{Durability, Ingest, IngestStatus, Verified};
use crate::error::{Error, Result};
use crate::pool::give_way;
use crate::records::Batch;
use crate::sync::lock;
use crate::testing::memory::window;

/// An unfinished upload. While a writer has it open, the parts belong to the writer.
pub(super) struct IngestSlot {
    upload: Option<Upload>,
    offset: u64,
    updated_at: SystemTime,
}

#[derive(Default)]
struct Upload {
    /// Each of [`PART`] bytes.
    parts: Vec<Bytes>,
    tail: BytesMut,
}

impl IngestSlot {
    pub(super) fn status(&self, key: &str) -> IngestStatus {
        IngestStatus {
            key: key.to_owned(),
            offset: self.offset,
            updated_at: self.updated_at,
        }
    }
}

/// Returns what a read at `offset` returns: at most the rest of the part in which it begins.
pub(super) fn piece(parts: &[Bytes], offset: u64, length: usize) -> Bytes {
    let number = usize::try_from(offset / PART as u64).unwrap_or(usize::MAX);
    parts.get(number).map_or_else(Bytes::new, |part| {
        part.slice(window(part.len(), offset % PART as u64, length))
    })
}

pub(super) struct StrictIngest {
    store: StrictStore,
    key: String,
    upload: Upload,
    published: bool,
}

impl StrictIngest {
    pub(super) fn begin(store: StrictStore, key: &str) -> Result<Self> {
        let upload = {
            let mut uploads = lock(&store.0.uploads);
            let slot = uploads.entry(key.to_owned()).or_insert_with(|| IngestSlot {
                upload: Some(Upload::default()),
                offset: 0,
                updated_at: SystemTime::now(),
            });
            slot.upload.take().ok_or_else(|| busy("begin", key))?
        };
        Ok(StrictIngest {
            store,
            key: key.to_owned(),
            upload,
            published: false,
        })
    }

    pub(super) fn discard(store: &StrictStore, key: &str) -> Result<bool> {
        let mut uploads = lock(&store.0.uploads);
        match uploads.get(key) {
            None => Ok(false),
            Some(slot) if slot.upload.is_none() => Err(busy("discard", key)),
            Some(_) => Ok(uploads.remove(key).is_some()),
        }
    }

    fn update_slot(&self) {
        if let Some(slot) = lock(&self.store.0.uploads).get_mut(&self.key) {
            slot.offset = self.offset();
            slot.updated_at = SystemTime::now();
        }
    }
}

fn busy(operation: &'static str, key: &str) -> Error {
    Error::busy("another writer has this ingest open; wait until that writer ends")
        .operation(operation)
        .subject(key)
}

#[async_trait]
impl Ingest for StrictIngest {
    fn key(&self) -> &str {
        &self.key
    }

    fn offset(&self) -> u64 {
        (self.upload.parts.len() * PART + self.upload.tail.len()) as u64
    }

    async fn append(&mut self, data: Bytes) -> Result<()> {
        self.upload.tail.extend_from_slice(&data);
        while self.upload.tail.len() >= PART {
            let part = self.upload.tail.split_to(PART).freeze();
            self.upload.parts.push(part);
            give_way().await;
        }
        self.update_slot();
        give_way().await;
        Ok(())
    }

    async fn read_back(&mut self, offset: u64, length: usize) -> Result<Bytes> {
        give_way().await;
        let uploaded = (self.upload.parts.len() * PART) as u64;
        if offset < uploaded {
            return Ok(piece(&self.upload.parts, offset, length));
        }
        let tail = &self.upload.tail;
        Ok(Bytes::copy_from_slice(
            &tail[window(tail.len(), offset - uploaded, length)],
        ))
    }

    async fn rewind(&mut self) -> Result<()> {
        self.upload = Upload::default();
        self.update_slot();
        give_way().await;
        Ok(())
    }

    /// Leaves the batch to the caller, because the store is not `Joint`.
    async fn publish(
        mut self: Box<Self>,
        verified: &Verified,
        _: &Batch,
        _: Durability,
    ) -> Result<bool> {
        verified.check(&self.key, self.offset())?;
        let mut parts = self.upload.parts.clone();
        parts.push(Bytes::copy_from_slice(&self.upload.tail));
        let store = self.store.clone();
        store
            .upload(*verified.digest(), verified.size(), parts)
            .await;
        self.published = true;
        Ok(false)
    }
}

impl Drop for StrictIngest {
    fn drop(&mut self) {
        let mut uploads = lock(&self.store.0.uploads);
        if self.published {
            uploads.remove(&self.key);
        } else if let Some(slot) = uploads.get_mut(&self.key) {
            slot.upload = Some(mem::take(&mut self.upload));
        }
    }
}
