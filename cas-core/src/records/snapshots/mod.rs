//! The states of snapshots, as containerd has them, in a home of records.
//!
//! A snapshotter keeps directories and asks here which moves are allowed. Each record carries
//! how many snapshots stand on it, so that taking a parent and removing it change the same
//! record: one of the two loses the compare-and-swap, in this process or between processes.
//!
//! Keys in [`Table::Snapshots`]: `<snapshotter>/<key>` for a snapshot, `<snapshotter>` for the
//! first id that is not yet given out.

mod moves;
mod record;

use std::collections::BTreeSet;
use std::future::Future;
use std::ops::Range;
use std::sync::{Arc, Mutex};

pub use record::{New, SnapshotRecord};

use super::each::each;
use super::retry::retry;
use super::{Batch, Expect, Records, Revision, Table};
use crate::capability::Capability;
use crate::error::{Error, Result};
use crate::labels::Labels;
use crate::snapshot::{Commit, Info, Usage};
use crate::sync::lock;

/// Ids taken from the records at once; those left over when the process ends are never used.
const BLOCK: u64 = 64;

/// The view of [`Table::Snapshots`] that belongs to one snapshotter.
pub struct Snapshots {
    records: Arc<dyn Records>,
    snapshotter: &'static str,
    ids: Mutex<Range<u64>>,
    turn: tokio::sync::Mutex<()>,
}

/// A record as it was found.
struct Seen {
    record: SnapshotRecord,
    revision: Revision,
}

impl Snapshots {
    /// The view of `records` for a snapshotter.
    ///
    /// # Errors
    /// `Unsupported` when batches are not atomic there: half of a move would count a child that
    /// does not exist.
    pub fn new(records: Arc<dyn Records>, snapshotter: &'static str) -> Result<Self> {
        if !records.capabilities().has(Capability::Atomic) {
            let message = "snapshots need a home of records whose batches are atomic; use a \
                           local one";
            return Err(Error::unsupported(message).subject(snapshotter));
        }
        Ok(Snapshots {
            records,
            snapshotter,
            ids: Mutex::new(0..0),
            turn: tokio::sync::Mutex::new(()),
        })
    }

    /// An id that no snapshot of this home has or had; it names a directory.
    ///
    /// # Errors
    /// `Corrupt` when the counter does not parse; those of the store.
    pub async fn fresh_id(&self) -> Result<u64> {
        if let Some(id) = lock(&self.ids).next() {
            return Ok(id);
        }
        let block = self.commit_plan(|| self.plan_block()).await?;
        *lock(&self.ids) = block.start + 1..block.end;
        Ok(block.start)
    }

    /// The record of a snapshot.
    ///
    /// # Errors
    /// `Corrupt` when it does not parse; those of the store.
    pub async fn load(&self, key: &str) -> Result<Option<SnapshotRecord>> {
        Ok(self.seen(key).await?.map(|seen| seen.record))
    }

    /// The record of a snapshot that must be there.
    ///
    /// # Errors
    /// As `load`, and `NotFound`.
    pub async fn find(&self, key: &str) -> Result<SnapshotRecord> {
        self.existing(key).await.map(|seen| seen.record)
    }

    /// The snapshots below, nearest first.
    ///
    /// # Errors
    /// `Corrupt` when one is missing or the chain bites its tail.
    pub async fn ancestors(&self, record: &SnapshotRecord) -> Result<Vec<SnapshotRecord>> {
        let mut met = BTreeSet::from([record.id]);
        let mut chain: Vec<SnapshotRecord> = Vec::new();
        while let Some(parent) = &chain.last().unwrap_or(record).parent {
            let found = self.load(parent).await?;
            let found = found.ok_or_else(|| {
                Error::corrupt("other snapshots stand on it, but it has no record").subject(parent)
            })?;
            if !met.insert(found.id) {
                let message = "a snapshot is among its own ancestors";
                return Err(Error::corrupt(message).subject(parent));
            }
            chain.push(found);
        }
        Ok(chain)
    }

    /// Whether a snapshot of this name could be made now; its parent's record. Asked before
    /// directories are made, and again by [`Self::create`].
    ///
    /// # Errors
    /// Those of `create`.
    pub async fn admit(&self, new: &New<'_>) -> Result<Option<SnapshotRecord>> {
        let parent = self.parent_for(new).await?;
        Ok(parent.map(|seen| seen.record))
    }

    /// Records a snapshot under `id`, whose directory is complete.
    ///
    /// # Errors
    /// `AlreadyExists`; `NotFound` for the parent; `InvalidArgument` when the parent is not
    /// committed, or for a key or labels out of bounds; `Conflict` when others keep winning.
    pub async fn create(&self, new: &New<'_>, id: u64) -> Result<SnapshotRecord> {
        self.commit_plan(|| self.plan_create(new, id)).await
    }

    /// Makes the active snapshot `key` the committed one `name`, with what it takes by itself.
    ///
    /// # Errors
    /// Those of [`crate::Snapshotter::commit`].
    pub async fn commit(
        &self,
        name: &str,
        key: &str,
        options: &Commit,
        usage: Usage,
    ) -> Result<SnapshotRecord> {
        self.commit_plan(|| self.plan_commit(name, key, options, usage))
            .await
    }

    /// Removes the record of a snapshot and returns it; the key is free again.
    ///
    /// # Errors
    /// `NotFound`; `FailedPrecondition` while others stand on it.
    pub async fn remove(&self, key: &str) -> Result<SnapshotRecord> {
        self.commit_plan(|| self.plan_remove(key)).await
    }

    /// Removes the record of a snapshot where it is as it was seen; nothing when it is not.
    ///
    /// # Errors
    /// `FailedPrecondition` while others stand on it.
    pub async fn remove_seen(&self, seen: &Info) -> Result<Option<SnapshotRecord>> {
        self.commit_plan(|| self.plan_remove_seen(seen)).await
    }

    /// Changes the labels of a snapshot: all, or those that the field paths name. A label without
    /// a value is removed.
    ///
    /// # Errors
    /// `NotFound`; `InvalidArgument` for another field path, or labels out of bounds.
    pub async fn update(&self, key: &str, labels: &Labels, fieldpaths: &[&str]) -> Result<Info> {
        self.commit_plan(|| self.plan_update(key, labels, fieldpaths))
            .await
    }

    /// At most `limit` snapshots in the order of their keys, those after `after` only.
    ///
    /// # Errors
    /// `Corrupt` when a record does not parse; those of the store.
    pub async fn walk(&self, after: Option<&str>, limit: usize) -> Result<Vec<Info>> {
        let page = self.page(after, limit).await?;
        Ok(page.iter().map(|(key, record)| record.info(key)).collect())
    }

    /// The ids that records name. A snapshot that is committed meanwhile may be missed, so what
    /// is missing here is only a candidate for removal.
    ///
    /// # Errors
    /// As `walk`.
    pub async fn named_ids(&self) -> Result<BTreeSet<u64>> {
        let mut ids = BTreeSet::new();
        each(&*self.records, Table::Snapshots, &self.row(""), |record| {
            ids.insert(SnapshotRecord::decode(record)?.id);
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
        seen.ok_or_else(|| Error::not_found("no such snapshot").subject(key))
    }

    /// Plans and commits, again where another process was faster. Within the process moves take
    /// turns, so that they do not wear each other out.
    async fn commit_plan<T, F>(&self, plan: impl Fn() -> F + Send + Sync) -> Result<T>
    where
        T: Send,
        F: Future<Output = Result<(Batch, T)>> + Send,
    {
        let _turn = self.turn.lock().await;
        let plan = &plan;
        retry(|| async move {
            let (batch, outcome) = plan().await?;
            self.records.commit(&batch).await.map(|()| outcome)
        })
        .await
    }

    /// The next ids, and the counter behind them.
    async fn plan_block(&self) -> Result<(Batch, Range<u64>)> {
        let found = self
            .records
            .load(Table::Snapshots, self.snapshotter)
            .await?;
        let (first, expect) = match found {
            None => (1, Expect::Absent),
            Some(found) => (
                parse_counter(&found)?,
                Expect::Revision(found.revision.clone()),
            ),
        };
        let next = first.saturating_add(BLOCK);
        let mut batch = Batch::new();
        let value = next.to_string().into();
        batch.put(Table::Snapshots, self.snapshotter, expect, value);
        Ok((batch, first..next))
    }

    /// The key of a record.
    fn row(&self, key: &str) -> String {
        format!("{}/{key}", self.snapshotter)
    }
}

fn parse_counter(found: &super::Record) -> Result<u64> {
    std::str::from_utf8(&found.value)
        .ok()
        .and_then(|text| text.parse().ok())
        .ok_or_else(|| Error::corrupt("the counter of ids does not parse").subject(&found.key))
}

#[cfg(test)]
mod tests;
