//! The record of a blob: what is known of it beside its bytes.

use std::sync::Arc;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use super::{Batch, Expect, Record, Records, Revision, Table, check_labels};
use crate::Labels;
use crate::digest::Digest;
use crate::error::{Error, Kind, Result};
use crate::media_type::MediaType;

/// What a store knows of a blob; written with the publish of its bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlobRecord {
    /// Length in bytes.
    pub size: u64,
    /// Its type, where whoever stored it knew.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media_type: Option<MediaType>,
    /// Labels; those that begin with `containerd.io/gc.` are edges for the collector.
    #[serde(default, skip_serializing_if = "Labels::is_empty")]
    pub labels: Labels,
    /// What its document lists, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub children: Vec<Digest>,
    /// When it was stored first.
    #[serde(with = "crate::time")]
    pub created_at: SystemTime,
    /// When its record changed last.
    #[serde(with = "crate::time")]
    pub updated_at: SystemTime,
}

impl BlobRecord {
    /// The record of a blob stored now.
    pub fn new(size: u64, media_type: Option<MediaType>) -> Self {
        let now = SystemTime::now();
        BlobRecord {
            size,
            media_type,
            labels: Labels::new(),
            children: Vec::new(),
            created_at: now,
            updated_at: now,
        }
    }
}

/// How often a lost compare-and-swap is tried again before the caller hears of it.
const ATTEMPTS: usize = 64;

/// The view of [`Table::Blobs`] in a home of records.
#[derive(Clone)]
pub struct Blobs(Arc<dyn Records>);

impl Blobs {
    /// The view of `records`.
    pub fn new(records: Arc<dyn Records>) -> Self {
        Blobs(records)
    }

    /// The record of a blob and its revision.
    ///
    /// # Errors
    /// `Corrupt` when it does not parse; those of the store.
    pub async fn load(&self, digest: &Digest) -> Result<Option<(BlobRecord, Revision)>> {
        let record = self.0.load(Table::Blobs, &digest.to_string()).await?;
        record
            .map(|record| decode(&record).map(|blob| (blob, record.revision)))
            .transpose()
    }

    /// The change that writes the record, for the batch of a publish.
    ///
    /// # Errors
    /// `InvalidArgument` for labels over their bounds.
    pub fn put(
        batch: &mut Batch,
        digest: &Digest,
        record: &BlobRecord,
        expect: Expect,
    ) -> Result<()> {
        check_labels(&record.labels)?;
        let value = serde_json::to_vec(record)
            .map_err(|error| Error::internal("a blob record does not serialise").source(error))?;
        batch.put(Table::Blobs, digest.to_string(), expect, value.into());
        Ok(())
    }

    /// Changes the record of a blob, again where the compare-and-swap is lost; `None` is a blob
    /// without a record. Returns what was written.
    ///
    /// # Errors
    /// Those of `change`; `Conflict` when others keep winning.
    pub async fn update<F>(&self, digest: &Digest, change: F) -> Result<BlobRecord>
    where
        F: Fn(Option<BlobRecord>) -> Result<BlobRecord> + Send,
    {
        for attempt in 1.. {
            let (found, expect) = match self.load(digest).await? {
                Some((record, revision)) => (Some(record), Expect::Revision(revision)),
                None => (None, Expect::Absent),
            };
            let before = found.clone();
            let mut record = change(found)?;
            if before.as_ref() == Some(&record) {
                return Ok(record);
            }
            record.updated_at = SystemTime::now();
            let mut batch = Batch::new();
            Self::put(&mut batch, digest, &record, expect)?;
            match self.0.commit(&batch).await {
                Err(error) if error.kind() == Kind::Conflict && attempt < ATTEMPTS => {}
                outcome => return outcome.map(|()| record),
            }
        }
        Err(Error::internal("the attempts ended without an outcome"))
    }

    /// Removes the record; false when there is none.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn remove(&self, digest: &Digest) -> Result<bool> {
        let key = digest.to_string();
        let there = self.0.load(Table::Blobs, &key).await?.is_some();
        let mut batch = Batch::new();
        batch.delete(Table::Blobs, key, Expect::Any);
        self.0.commit(&batch).await.map(|()| there)
    }
}

fn decode(record: &Record) -> Result<BlobRecord> {
    serde_json::from_slice(&record.value).map_err(|error| {
        Error::corrupt(format!("the record does not parse: {error}"))
            .operation("read blob record")
            .subject(&record.key)
            .source(error)
    })
}
