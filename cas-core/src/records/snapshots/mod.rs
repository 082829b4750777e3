//! The records of snapshots. The states of a snapshot are those of containerd.
//!
//! A snapshotter manages the directories, and this module decides which changes of state are
//! allowed. Each record counts the children of its snapshot. Adding a child and removing the parent
//! therefore change the same record. If one job adds a child while another job removes the parent,
//! in the same process or in another, one of the jobs loses the compare-and-swap.
//!
//! Keys in [`Table::Snapshots`]: `<snapshotter>/<key>` for a snapshot, `<snapshotter>` for the
//! counter of snapshot ids.

mod damage;
mod moves;
mod record;

use std::collections::BTreeSet;
use std::future::Future;
use std::ops::Range;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

pub use record::{New, SnapshotContent, SnapshotRecord};

use super::each::each;
use super::retry::retry;
use super::{Batch, Expect, Record, Records, Revision, Table, codec};
use crate::capability::Capability;
use crate::error::{Error, Result};
use crate::labels::Labels;
use crate::snapshot::{Commit, Info};
use crate::sync::lock;

/// Number of ids that a process reserves in one step. Reserved ids that are left over when the
/// process ends are never used.
const BLOCK: u64 = 64;

/// The records of one snapshotter's snapshots, with typed access to [`Table::Snapshots`].
pub struct Snapshots {
    records: Arc<dyn Records>,
    snapshotter: &'static str,
    ids: Mutex<Range<u64>>,
    turn: tokio::sync::Mutex<()>,
}

/// The counter of the ids of one snapshotter. A changed bit must not make it a lower number: a view
/// could get the id of another snapshot, and the removal of the view would remove the directory of
/// that snapshot.
#[derive(Serialize, Deserialize)]
struct Counter {
    /// The lowest id that no process has reserved yet.
    next: u64,
}

/// A record and the revision at which it was read.
struct Seen {
    record: SnapshotRecord,
    revision: Revision,
}

impl Snapshots {
    /// Returns the records of the snapshots of `snapshotter` in `records`.
    ///
    /// # Errors
    /// `Unsupported` if batches of `records` are not atomic. If only half of a batch were applied,
    /// a parent could count a child that does not exist.
    pub fn new(records: Arc<dyn Records>, snapshotter: &'static str) -> Result<Self> {
        if !records.capabilities().has(Capability::Atomic) {
            let message = "snapshots need a records store with atomic batches; use a local store";
            return Err(Error::unsupported(message).subject(snapshotter));
        }
        Ok(Snapshots {
            records,
            snapshotter,
            ids: Mutex::new(0..0),
            turn: tokio::sync::Mutex::new(()),
        })
    }

    /// Returns an id that no snapshot of this snapshotter has or ever had. The id is the name of
    /// the directory of a new snapshot.
    ///
    /// # Errors
    /// `Corrupt` if the stored counter of ids is damaged or too high; `Conflict` if every attempt
    /// lost against another writer; errors of the store.
    pub async fn fresh_id(&self) -> Result<u64> {
        if let Some(id) = lock(&self.ids).next() {
            return Ok(id);
        }
        let block = self.commit_plan(|| self.plan_block()).await?;
        *lock(&self.ids) = block.start + 1..block.end;
        Ok(block.start)
    }

    /// Returns the record of a snapshot, or `None` if there is none.
    ///
    /// # Errors
    /// `Corrupt` if the record does not parse; errors of the store.
    pub async fn load(&self, key: &str) -> Result<Option<SnapshotRecord>> {
        Ok(self.seen(key).await?.map(|seen| seen.record))
    }

    /// Returns the record of a snapshot that must exist.
    ///
    /// # Errors
    /// `NotFound` if there is none; errors of [`Self::load`].
    pub async fn find(&self, key: &str) -> Result<SnapshotRecord> {
        self.existing(key).await.map(|seen| seen.record)
    }

    /// Returns the ancestors of a snapshot: its parent, the parent of its parent, and so on.
    ///
    /// # Errors
    /// `Corrupt` if the record of an ancestor is missing, or if the chain is circular; errors of
    /// [`Self::load`].
    pub async fn ancestors(&self, record: &SnapshotRecord) -> Result<Vec<SnapshotRecord>> {
        let mut met = BTreeSet::new();
        let mut chain: Vec<SnapshotRecord> = Vec::new();
        while let Some(parent) = &chain.last().unwrap_or(record).parent {
            let found = self.load(parent).await?.ok_or_else(|| {
                Error::corrupt(
                    "the snapshot is the parent of another snapshot, but has no record; run \
                     `cas fsck --repair`",
                )
                .subject(parent)
            })?;
            if !met.insert(parent.clone()) {
                let message = "the snapshot is one of its own ancestors; run `cas fsck --repair`";
                return Err(Error::corrupt(message).subject(parent));
            }
            chain.push(found);
        }
        Ok(chain)
    }

    /// Checks that a snapshot may be created. A snapshotter calls this method before it makes the
    /// directory of the snapshot. [`Self::create`] repeats the check. Returns the record of the
    /// parent, if the new snapshot has a parent.
    ///
    /// # Errors
    /// As [`Self::create`], but never `Conflict`.
    pub async fn admit(&self, new: &New<'_>) -> Result<Option<SnapshotRecord>> {
        let parent = self.parent_for(new).await?;
        Ok(parent.map(|seen| seen.record))
    }

    /// Creates the record of a snapshot whose directory `id` is complete. Returns the record.
    ///
    /// # Errors
    /// `AlreadyExists` if a snapshot has this key; `NotFound` if the parent does not exist;
    /// `InvalidArgument` if the parent is not committed, if the key is empty, contains control
    /// characters or is longer than [`limit::KEY`](crate::limit::KEY) bytes, or if the labels
    /// exceed their bounds; `Corrupt` if a record does not parse; `Conflict` if every attempt lost
    /// against another writer; errors of the store.
    pub async fn create(&self, new: &New<'_>, id: u64) -> Result<SnapshotRecord> {
        self.commit_plan(|| self.plan_create(new, id)).await
    }

    /// Turns the active snapshot `key` into the committed snapshot `name`. `content` is the usage
    /// of the directory of the active snapshot, or a [`SnapshotContent`], which can name another
    /// directory. Returns the new record.
    ///
    /// # Errors
    /// As [`crate::Snapshotter::commit`], but never `Unsupported`; `Corrupt` if a record does not
    /// parse; `Conflict` if `content` belongs to another snapshot than `key`, or if every attempt
    /// lost against another writer; errors of the store.
    pub async fn commit(
        &self,
        name: &str,
        key: &str,
        options: &Commit,
        content: impl Into<SnapshotContent>,
    ) -> Result<SnapshotRecord> {
        let content = content.into();
        self.commit_plan(|| self.plan_commit(name, key, options, content))
            .await
    }

    /// Removes the record of a snapshot and returns it. Afterwards the key can be used again.
    ///
    /// # Errors
    /// `NotFound` if there is none; `FailedPrecondition` while the snapshot has children; `Corrupt`
    /// if a record does not parse; `Conflict` if every attempt lost against another writer; errors
    /// of the store.
    pub async fn remove(&self, key: &str) -> Result<SnapshotRecord> {
        self.commit_plan(|| self.plan_remove(key)).await
    }

    /// Removes the record of a snapshot and returns it, if the snapshot is still as `seen`
    /// describes it. Returns `None` if no snapshot has the key `seen.key`, if the snapshot was
    /// updated after `seen` was read, or if the key now belongs to another snapshot.
    ///
    /// # Errors
    /// As [`Self::remove`], but never `NotFound`.
    pub async fn remove_seen(&self, seen: &Info) -> Result<Option<SnapshotRecord>> {
        self.commit_plan(|| self.plan_remove_seen(seen)).await
    }

    /// Replaces the labels that the field paths name, or all labels of the snapshot if there are no
    /// field paths. A label with an empty value is removed. Returns the updated snapshot.
    ///
    /// # Errors
    /// `NotFound` if the snapshot does not exist; `InvalidArgument` for a field path other than
    /// `labels` and `labels.<key>`, or for labels that exceed their bounds; `Corrupt` if the record
    /// does not parse; `Conflict` if every attempt lost against another writer; errors of the
    /// store.
    pub async fn update(&self, key: &str, labels: &Labels, fieldpaths: &[&str]) -> Result<Info> {
        self.commit_plan(|| self.plan_update(key, labels, fieldpaths))
            .await
    }

    /// Returns at most `limit` snapshots in the order of their keys, starting after the key
    /// `after`, or at the first snapshot if `after` is `None`.
    ///
    /// # Errors
    /// `Corrupt` if a record does not parse; errors of the store.
    pub async fn walk(&self, after: Option<&str>, limit: usize) -> Result<Vec<Info>> {
        let page = self.page(after, limit).await?;
        Ok(page.iter().map(|(key, record)| record.info(key)).collect())
    }

    /// Returns the ids of the directories that records name. The result may lack the id of a
    /// snapshot that is created, committed or [replaced](Self::replace) during the call. A caller
    /// that wants to remove a directory whose id was not returned must therefore lock the directory
    /// and call this method again.
    ///
    /// # Errors
    /// As [`Self::walk`].
    pub async fn named_ids(&self) -> Result<BTreeSet<u64>> {
        let mut ids = BTreeSet::new();
        each(&*self.records, Table::Snapshots, &self.row(""), |record| {
            ids.insert(SnapshotRecord::decode(record)?.id);
            Ok(())
        })
        .await?;
        Ok(ids)
    }

    /// As [`Self::named_ids`], but leaves out the records that cannot be read.
    ///
    /// # Errors
    /// Errors of the store.
    pub async fn sound_ids(&self) -> Result<BTreeSet<u64>> {
        let mut ids = BTreeSet::new();
        each(&*self.records, Table::Snapshots, &self.row(""), |record| {
            ids.extend(SnapshotRecord::decode(record).ok().map(|found| found.id));
            Ok(())
        })
        .await?;
        Ok(ids)
    }

    async fn page(
        &self,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<(String, SnapshotRecord)>> {
        let (prefix, after) = (self.row(""), after.map(|key| self.row(key)));
        let page = self
            .records
            .scan(Table::Snapshots, &prefix, after.as_deref(), limit)
            .await?;
        let decode = |found: &super::Record| {
            let key = found.key.strip_prefix(&prefix).unwrap_or(&found.key);
            Ok((key.to_owned(), SnapshotRecord::decode(found)?))
        };
        page.iter().map(decode).collect()
    }

    async fn seen(&self, key: &str) -> Result<Option<Seen>> {
        let found = self.records.load(Table::Snapshots, &self.row(key)).await?;
        let seen = found.map(|found| {
            SnapshotRecord::decode(&found).map(|record| Seen {
                record,
                revision: found.revision,
            })
        });
        seen.transpose()
    }

    async fn existing(&self, key: &str) -> Result<Seen> {
        let seen = self.seen(key).await?;
        seen.ok_or_else(|| Error::not_found("no such snapshot; check the key").subject(key))
    }

    /// Plans a change and commits it, and retries if another process was faster. Changes through
    /// one `Snapshots` are made one at a time, so that they do not make each other retry.
    async fn commit_plan<T, F>(&self, plan: impl Fn() -> F + Send + Sync) -> Result<T>
    where
        T: Send,
        F: Future<Output = Result<(Batch, T)>> + Send,
    {
        let _turn = self.turn.lock().await;
        let plan = &plan;
        retry(|| async move {
            let (batch, outcome) = plan().await?;
            if !batch.is_empty() {
                self.records.commit(&batch).await?;
            }
            Ok(outcome)
        })
        .await
    }

    /// Plans to take the next block of ids.
    async fn plan_block(&self) -> Result<(Batch, Range<u64>)> {
        let found = self
            .records
            .load(Table::Snapshots, self.snapshotter)
            .await?;
        let (first, expect) = match found {
            None => (1, Expect::Absent),
            Some(found) => (
                Counter::decode(&found)?.next,
                Expect::Revision(found.revision.clone()),
            ),
        };
        let next = first + BLOCK;
        let mut batch = Batch::new();
        let value = Counter { next }.encode(self.snapshotter)?;
        batch.put(Table::Snapshots, self.snapshotter, expect, value);
        Ok((batch, first..next))
    }

    /// Returns the key of the record of the snapshot `key`.
    fn row(&self, key: &str) -> String {
        format!("{}/{key}", self.snapshotter)
    }
}

impl Counter {
    fn encode(&self, snapshotter: &str) -> Result<Bytes> {
        codec::encode(Table::Snapshots, snapshotter, self)
    }

    fn decode(found: &Record) -> Result<Self> {
        let text = std::str::from_utf8(&found.value).ok();
        let counter = match text.and_then(|text| text.parse().ok()) {
            // An earlier release has written the number alone.
            Some(next) => Counter { next },
            None => codec::decode(Table::Snapshots, found, "read counter of snapshot ids")?,
        };
        // The next block of ids must not end above the maximum of `u64`.
        if counter.next.checked_add(BLOCK).is_none() {
            let message = "the counter of snapshot ids is too high; run `cas fsck --repair`";
            return Err(Error::corrupt(message).subject(&found.key));
        }
        Ok(counter)
    }
}

#[cfg(test)]
mod tests;
