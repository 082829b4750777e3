//! The record of a blob: what is known of it beside its bytes.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::retry::retry;
use super::{Batch, Expect, Record, Records, Revision, Table, UNLEASED_TTL};
use crate::content::Version;
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::labels::{Labels, check_labels};
use crate::media_type::MediaType;

/// What a store knows of a blob; written with the publish of its bytes, or before it.
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
    /// Children that were not stored with it and that it does not keep: those of other platforms,
    /// layers that are not distributed. Any other child that is missing was lost.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub absent: BTreeSet<Digest>,
    /// Jobs that count on it: the ids of their leases, some of them ended.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub leases: BTreeSet<String>,
    /// Until when it is kept without a lease; nothing when it was stored with one.
    #[serde(
        default,
        with = "crate::time::optional",
        skip_serializing_if = "Option::is_none"
    )]
    pub expires_at: Option<SystemTime>,
    /// Set once it is condemned: it counts as absent, and the bytes of this version go.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tombstone: Option<Tombstone>,
    /// When it was stored first.
    #[serde(with = "crate::time")]
    pub created_at: SystemTime,
    /// When its record changed last.
    #[serde(with = "crate::time")]
    pub updated_at: SystemTime,
}

/// What a collection is about to remove.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tombstone {
    /// The bytes that go; nothing when there were none.
    pub version: Option<Version>,
}

impl BlobRecord {
    /// The record of a blob stored now, without a lease.
    pub fn new(size: u64, media_type: Option<MediaType>) -> Self {
        let now = SystemTime::now();
        BlobRecord {
            size,
            media_type,
            labels: Labels::new(),
            children: Vec::new(),
            absent: BTreeSet::new(),
            leases: BTreeSet::new(),
            expires_at: Some(now + UNLEASED_TTL),
            tombstone: None,
            created_at: now,
            updated_at: now,
        }
    }
}

/// The view of [`Table::Blobs`] in a home of records.
#[derive(Clone)]
pub struct Blobs(Arc<dyn Records>);

impl Blobs {
    /// The view of `records`.
    pub fn new(records: Arc<dyn Records>) -> Self {
        Blobs(records)
    }

    /// The record of a blob, condemned or not, and its revision.
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
        batch.put(Table::Blobs, digest.to_string(), expect, encode(record)?);
        Ok(())
    }

    /// Changes the record of a blob, again where the compare-and-swap is lost; `None` is a blob
    /// without a record. Returns what was written.
    ///
    /// # Errors
    /// Those of `change`; `NotFound` when the blob is being collected; `Conflict` when others keep
    /// winning.
    pub async fn update<F>(&self, digest: &Digest, change: F) -> Result<BlobRecord>
    where
        F: Fn(Option<BlobRecord>) -> Result<BlobRecord> + Send + Sync,
    {
        retry(|| self.update_once(digest, &change)).await
    }

    async fn update_once<F>(&self, digest: &Digest, change: &F) -> Result<BlobRecord>
    where
        F: Fn(Option<BlobRecord>) -> Result<BlobRecord> + Send + Sync,
    {
        let (found, expect) = match self.load(digest).await? {
            Some((record, revision)) => (Some(record), Expect::Revision(revision)),
            None => (None, Expect::Absent),
        };
        let dead = |record: &BlobRecord| record.tombstone.is_some();
        if found.as_ref().is_some_and(dead) {
            return Err(Error::not_found("is being collected; store it again").subject(digest));
        }
        let before = found.clone();
        let mut record = change(found)?;
        if before.as_ref() == Some(&record) {
            return Ok(record);
        }
        record.updated_at = SystemTime::now();
        let mut batch = Batch::new();
        Self::put(&mut batch, digest, &record, expect)?;
        self.0.commit(&batch).await.map(|()| record)
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

pub(crate) fn encode(record: &BlobRecord) -> Result<Bytes> {
    serde_json::to_vec(record)
        .map(Bytes::from)
        .map_err(|error| Error::internal("a blob record does not serialise").source(error))
}

pub(crate) fn decode(record: &Record) -> Result<BlobRecord> {
    serde_json::from_slice(&record.value).map_err(|error| {
        Error::corrupt(format!("the record does not parse: {error}"))
            .operation("read blob record")
            .subject(&record.key)
            .source(error)
    })
}
