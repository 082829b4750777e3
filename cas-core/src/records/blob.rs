//! The record of a blob: what a store records about the blob besides its bytes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::packing::Packing;
use super::retry::retry;
use super::{Batch, Expect, Record, Records, Revision, Table, UNLEASED_TTL, codec, each};
use crate::content::Version;
use crate::digest::Digest;
use crate::error::{Error, ErrorKind, Result};
use crate::labels::{Labels, check_labels};
use crate::media_type::MediaType;
use crate::owner::Owner;

/// What a store records about a blob besides its bytes. A blob that `cas` publishes gets its record
/// together with its bytes, or before its bytes. A blob that another program stored gets its record
/// once `cas` pins or labels it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlobRecord {
    /// Length in bytes.
    pub size: u64,
    /// The media type of the blob, if it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media_type: Option<MediaType>,
    /// Labels. Garbage collection interprets the labels that begin with `containerd.io/gc.`.
    #[serde(default, skip_serializing_if = "Labels::is_empty")]
    pub labels: Labels,
    /// The children that the blob lists, in order, if it is a document (an index or a manifest).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub children: Vec<Digest>,
    /// Children that need not be stored, and that this blob does not protect from garbage
    /// collection. These are children that were left out, such as manifests for other platforms or
    /// layers that may not be distributed, and the layers in [`tars`](Self::tars). A child that is
    /// missing from the store, but is not listed here, was lost.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub absent: BTreeSet<Digest>,
    /// If the blob is a manifest, the layers that it does not keep because a snapshotter keeps
    /// their tars. The [`Packing`] of a layer states how the blob of the layer is made from its
    /// tar. An entry has a meaning only while the layer is also in [`absent`](Self::absent).
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub tars: BTreeMap<Digest, Packing>,
    /// The owners that claim the blob. A claim keeps the blob until a garbage collection for the
    /// owner drops the claim.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub owners: BTreeSet<Owner>,
    /// The ids of the leases that pin the blob; some of the leases may have ended.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub leases: BTreeSet<String>,
    /// The version of the stored bytes that was last recorded as verified. A version is verified if
    /// a [`Writer`] published its bytes, or if `cas` hashed its bytes and the hash was the digest
    /// of the blob.
    ///
    /// [`Writer`]: crate::content::Writer
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verified: Option<Version>,
    /// The time until which the blob is kept even without a lease; `None` if the blob was stored
    /// and pinned only under leases.
    #[serde(
        default,
        with = "crate::time::optional",
        skip_serializing_if = "Option::is_none"
    )]
    pub expires_at: Option<SystemTime>,
    /// Set when a garbage collection decides to remove the blob, unless the store removes bytes and
    /// record together. From then on, the blob counts as absent, and the collection removes the
    /// bytes of the version that the tombstone names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tombstone: Option<Tombstone>,
    /// When the record was made.
    #[serde(with = "crate::time")]
    pub created_at: SystemTime,
    /// When the record was last changed.
    #[serde(with = "crate::time")]
    pub updated_at: SystemTime,
}

/// Marks a blob that a garbage collection is about to remove.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tombstone {
    /// The version of the bytes that are removed; `None` if there were no bytes.
    pub version: Option<Version>,
}

impl BlobRecord {
    /// Returns a new record that is created now. The record keeps the blob for [`UNLEASED_TTL`],
    /// even without a lease.
    pub fn new(size: u64, media_type: Option<MediaType>) -> Self {
        let now = SystemTime::now();
        BlobRecord {
            size,
            media_type,
            labels: Labels::new(),
            children: Vec::new(),
            absent: BTreeSet::new(),
            tars: BTreeMap::new(),
            owners: BTreeSet::new(),
            leases: BTreeSet::new(),
            verified: None,
            expires_at: Some(now + UNLEASED_TTL),
            tombstone: None,
            created_at: now,
            updated_at: now,
        }
    }

    /// Returns whether `child` is a layer that this manifest does not keep, because a snapshotter
    /// keeps the tar of the layer. The blob of the layer may still be stored, for another image.
    pub fn is_tar(&self, child: &Digest) -> bool {
        self.absent.contains(child) && self.tars.contains_key(child)
    }
}

/// The records of blobs, with typed access to [`Table::Blobs`].
#[derive(Clone)]
pub struct Blobs(Arc<dyn Records>);

impl Blobs {
    /// Returns the records of blobs in `records`.
    pub fn new(records: Arc<dyn Records>) -> Self {
        Blobs(records)
    }

    /// Returns the record of a blob and its revision, or `None` if there is none. The blob may be
    /// tombstoned.
    ///
    /// # Errors
    /// `Corrupt` if the record does not parse; errors of the store.
    pub async fn load(&self, digest: &Digest) -> Result<Option<(BlobRecord, Revision)>> {
        let record = self.0.load(Table::Blobs, &digest.to_string()).await?;
        record
            .map(|record| decode(&record).map(|blob| (blob, record.revision)))
            .transpose()
    }

    /// Returns the record of a blob, or `None` if there is none or it is damaged. A caller that
    /// uses this function can judge the blob by its bytes alone.
    ///
    /// # Errors
    /// Errors of the store.
    pub(crate) async fn load_sound(&self, digest: &Digest) -> Result<Option<BlobRecord>> {
        match self.load(digest).await {
            Err(error) if error.kind() == ErrorKind::Corrupt => Ok(None),
            found => Ok(found?.map(|(record, _)| record)),
        }
    }

    /// Returns the blobs that `owner` claims, with their sizes, in the order of their digests.
    ///
    /// # Errors
    /// `Corrupt` if a record does not parse; errors of the store.
    pub async fn claimed_by(&self, owner: &Owner) -> Result<Vec<(Digest, u64)>> {
        let mut claimed = Vec::new();
        each(&*self.0, Table::Blobs, "", |record| {
            let blob = decode(record)?;
            if blob.tombstone.is_none() && blob.owners.contains(owner) {
                claimed.push((record.key.parse()?, blob.size));
            }
            Ok(())
        })
        .await?;
        Ok(claimed)
    }

    /// Returns how the blobs of `layers` are made from the tars of these layers, as far as the
    /// record of any manifest states this. Skips damaged records.
    ///
    /// # Errors
    /// Errors of the store.
    pub async fn packings(&self, layers: &BTreeSet<Digest>) -> Result<BTreeMap<Digest, Packing>> {
        let mut found = BTreeMap::new();
        each(&*self.0, Table::Blobs, "", |record| {
            let tars = decode(record).map(|manifest| manifest.tars);
            let is_known = |(layer, packing): &(Digest, Packing)| {
                layers.contains(layer) && *packing != Packing::Unknown
            };
            found.extend(tars.into_iter().flatten().filter(is_known));
            Ok(())
        })
        .await?;
        Ok(found)
    }

    /// Adds a write of the record to `batch`. The caller then commits the batch, alone or together
    /// with the bytes of the blob.
    ///
    /// # Errors
    /// `InvalidArgument` for labels that exceed their bounds.
    pub fn put(
        batch: &mut Batch,
        digest: &Digest,
        record: &BlobRecord,
        expect: Expect,
    ) -> Result<()> {
        check_labels(&record.labels)?;
        let key = digest.to_string();
        let value = encode(&key, record)?;
        batch.put(Table::Blobs, key, expect, value);
        Ok(())
    }

    /// Changes the record of a blob, and retries if another writer was faster. `change` is called
    /// with `None` for a blob without a record. Returns the record as written.
    ///
    /// # Errors
    /// Errors of `change`; `NotFound` if the blob is being collected; `Corrupt` if the record does
    /// not parse; `InvalidArgument` for labels that exceed their bounds; `Conflict` if every
    /// attempt lost against another writer; errors of the store.
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
        let tombstoned = |record: &BlobRecord| record.tombstone.is_some();
        if found.as_ref().is_some_and(tombstoned) {
            return Err(Error::not_found(
                "a garbage collection is removing the blob; store the blob again",
            )
            .subject(digest));
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

    /// Removes the record. Returns false if there is none.
    ///
    /// # Errors
    /// Errors of the store.
    pub async fn remove(&self, digest: &Digest) -> Result<bool> {
        let key = digest.to_string();
        let there = self.0.load(Table::Blobs, &key).await?.is_some();
        let mut batch = Batch::new();
        batch.delete(Table::Blobs, key, Expect::Any);
        self.0.commit(&batch).await.map(|()| there)
    }
}

pub(crate) fn encode(key: &str, record: &BlobRecord) -> Result<Bytes> {
    codec::encode(Table::Blobs, key, record)
}

pub(crate) fn decode(record: &Record) -> Result<BlobRecord> {
    codec::decode(Table::Blobs, record, "read blob record")
}
