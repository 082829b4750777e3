//! Damaged records, and snapshots with damaged files.

use std::collections::BTreeMap;
use std::time::SystemTime;

use super::record::{SnapshotContent, SnapshotRecord};
use super::{BLOCK, Counter, Snapshots};
use crate::error::{Error, Result};
use crate::labels::is_of_job;
use crate::records::{Batch, Expect, Revision, Table, each};
use crate::snapshot::SnapshotKind;

/// The records that are not damaged, by key, with their revisions.
type Sound = BTreeMap<String, (SnapshotRecord, Revision)>;

/// Number of ids that a correction of the counter skips. Each open [`Snapshots`] holds a block of
/// ids that may not be in a record yet, and no id may be given out twice.
const SKIPPED: u64 = 1024 * BLOCK;

/// The highest id that a record may have. A corrected counter and a block of ids follow it.
const HIGHEST: u64 = u64::MAX - SKIPPED - BLOCK - 1;

impl Snapshots {
    /// Gives the committed snapshot `key` the content of the active snapshot `by`, and removes
    /// `by`. `content` states the usage of this content. If `content` is a [`SnapshotContent`] that
    /// names a directory, `key` gets that directory, and otherwise the directory of `by`. Returns
    /// the id of the directory that `key` had before.
    ///
    /// # Errors
    /// `NotFound` if `key` or `by` does not exist; `FailedPrecondition` if `by` is not active;
    /// `InvalidArgument` if `key` is not committed or does not have the same parent as `by`;
    /// `Corrupt` if a record does not parse; `Conflict` if `content` belongs to another snapshot
    /// than `by`, or if every attempt lost against another writer; errors of the store.
    pub async fn replace(
        &self,
        key: &str,
        by: &str,
        content: impl Into<SnapshotContent>,
    ) -> Result<u64> {
        let content = content.into();
        self.commit_plan(|| self.plan_replace(key, by, content))
            .await
    }

    /// Returns whether a mount may still use the files that the committed snapshot `key` had at
    /// `time`. A mount may use them if `key` is an ancestor of an active snapshot or a view that
    /// was created at `time` or before.
    ///
    /// # Errors
    /// `Corrupt` if a record does not parse; errors of the store.
    pub async fn has_users(&self, key: &str, time: SystemTime) -> Result<bool> {
        let mut found = BTreeMap::new();
        let prefix = self.row("");
        each(&*self.records, Table::Snapshots, &prefix, |record| {
            let snapshot = SnapshotRecord::decode(record)?;
            found.insert(record.key[prefix.len()..].to_owned(), snapshot);
            Ok(())
        })
        .await?;
        let is_above = |record: &SnapshotRecord| {
            let mut below = record.parent.as_deref();
            // The bound ends the search in a circular chain.
            for _ in 0..found.len() {
                match below {
                    Some(parent) if parent == key => return true,
                    Some(parent) => below = found.get(parent).and_then(|one| one.parent.as_deref()),
                    None => return false,
                }
            }
            false
        };
        let mut users = found
            .values()
            .filter(|record| record.kind != SnapshotKind::Committed && record.created_at <= time);
        Ok(users.any(is_above))
    }

    async fn plan_replace(
        &self,
        key: &str,
        by: &str,
        content: SnapshotContent,
    ) -> Result<(Batch, u64)> {
        let (mut old, new) = (self.existing(key).await?, self.existing(by).await?);
        new.record.must_be_active(by)?;
        content.check_of(by, &new.record)?;
        if old.record.kind != SnapshotKind::Committed || old.record.parent != new.record.parent {
            let message = "only a committed snapshot can be replaced, and only by a snapshot with \
                           the same parent; prepare the new snapshot on that parent";
            return Err(Error::invalid(message).subject(key));
        }
        let new_id = content.id.unwrap_or(new.record.id);
        let id = std::mem::replace(&mut old.record.id, new_id);
        old.record.usage = Some(content.usage);
        let (mut batch, _) = self.removal(by, new).await?;
        let expect = Expect::Revision(old.revision);
        self.put(&mut batch, key, &old.record, expect)?;
        Ok((batch, id))
    }

    /// Returns the keys of the damaged records. A record is damaged if it does not parse, if its id
    /// is one of the 65,601 highest values of a `u64` (a corrected counter of ids would not fit
    /// above it), if its chain of parents is circular, or if a record in this chain is missing or
    /// damaged. An empty key in the result means that the counter of ids is damaged, lost, too low
    /// or too high.
    ///
    /// If `remove` is set, removes the damaged records, and corrects the counter of ids and the
    /// numbers of children in the other records. A record stays if only its chain of parents is
    /// damaged and the snapshot does not [belong to a job](is_of_job), because the snapshot may
    /// have the only copy of files, and its parents can be made again under the same keys. If
    /// another job changes a record meanwhile, the chain of parents and the number of children of
    /// this record are not checked.
    ///
    /// # Errors
    /// `Conflict` if `remove` is set and, at every attempt, another job changed a record that must
    /// be removed or corrected; errors of the store.
    pub async fn damaged(&self, remove: bool) -> Result<Vec<String>> {
        self.commit_plan(|| self.plan_removal_of_damaged(remove))
            .await
    }

    /// Plans nothing unless `remove` is set.
    async fn plan_removal_of_damaged(&self, remove: bool) -> Result<(Batch, Vec<String>)> {
        // Other jobs may work while the pages of a scan are read. If a record is the same in both
        // scans, its ancestors existed all the time between: those with a later key are in the
        // first scan, those with an earlier key in the second. Every change of its children or
        // their keys gives it another revision. If it still has that revision when the batch is
        // committed, then the second scan has exactly its children.
        let (_, before) = self.read_all().await?;
        let (mut damaged, mut sound) = self.read_all().await?;
        let is_same = |key: &str, revision: &Revision| {
            before
                .get(key)
                .is_some_and(|(_, before)| before == revision)
        };
        let mut either = before.clone();
        either.extend(sound.clone());
        let mut orphans = Vec::new();
        for key in without_root(&either) {
            if let Some((record, revision)) = sound.get(&key)
                && is_same(&key, revision)
            {
                if !is_of_job(&record.labels) {
                    orphans.push(key);
                    continue;
                }
                damaged.push((key.clone(), revision.clone()));
                sound.remove(&key);
            }
        }
        let mut batch = Batch::new();
        let corrected = self.correct_counter(&sound, &mut batch).await?;
        for (key, revision) in &damaged {
            let expect = Expect::Revision(revision.clone());
            batch.delete(Table::Snapshots, self.row(key), expect);
        }
        self.count_children(&sound, is_same, &mut batch)?;
        let keys = damaged.into_iter().map(|(key, _)| key).chain(orphans);
        let keys = keys.chain(corrected.then(String::new)).collect();
        Ok((if remove { batch } else { Batch::new() }, keys))
    }

    /// Returns the keys and revisions of the records that are damaged by themselves, and the other
    /// records.
    async fn read_all(&self) -> Result<(Vec<(String, Revision)>, Sound)> {
        let (mut damaged, mut sound) = (Vec::new(), Sound::new());
        let prefix = self.row("");
        each(&*self.records, Table::Snapshots, &prefix, |record| {
            let key = record.key[prefix.len()..].to_owned();
            match SnapshotRecord::decode(record) {
                Ok(found) if found.id <= HIGHEST => {
                    sound.insert(key, (found, record.revision.clone()));
                }
                _ => damaged.push((key, record.revision.clone())),
            }
            Ok(())
        })
        .await?;
        Ok((damaged, sound))
    }

    /// If the counter of ids is damaged, lost, too low or too high, adds to `batch` a write of a
    /// value that is higher than every id in `sound`. A lost record may have had an even higher id.
    /// A snapshotter that makes a directory therefore skips an id whose directory is still there.
    /// Returns whether the counter was wrong.
    async fn correct_counter(&self, sound: &Sound, batch: &mut Batch) -> Result<bool> {
        let found = self
            .records
            .load(Table::Snapshots, self.snapshotter)
            .await?;
        let highest = sound.values().map(|(record, _)| record.id).max();
        let is_right = match &found {
            Some(found) => Counter::decode(found).is_ok_and(|one| Some(one.next) > highest),
            None => highest.is_none(),
        };
        if is_right {
            return Ok(false);
        }
        let next = highest.unwrap_or_default() + 1 + SKIPPED;
        let expect = found.map_or(Expect::Absent, |found| Expect::Revision(found.revision));
        let value = Counter { next }.encode(self.snapshotter)?;
        batch.put(Table::Snapshots, self.snapshotter, expect, value);
        Ok(true)
    }

    /// Adds to `batch` writes that correct the counts of children. A count is wrong if the record
    /// of a child was lost or is removed. Only records that `is_same` accepts are corrected.
    fn count_children(
        &self,
        sound: &Sound,
        is_same: impl Fn(&str, &Revision) -> bool,
        batch: &mut Batch,
    ) -> Result<()> {
        let mut children: BTreeMap<&str, u64> = BTreeMap::new();
        for (record, _) in sound.values() {
            if let Some(parent) = &record.parent {
                *children.entry(parent).or_default() += 1;
            }
        }
        for (key, (record, revision)) in sound {
            let counted = children.get(key.as_str()).copied().unwrap_or_default();
            if record.children != counted && is_same(key, revision) {
                let record = SnapshotRecord {
                    children: counted,
                    ..record.clone()
                };
                self.put(batch, key, &record, Expect::Revision(revision.clone()))?;
            }
        }
        Ok(())
    }
}

/// Returns the keys of the records whose chain of parents does not end at a snapshot that has no
/// parent.
fn without_root(sound: &Sound) -> Vec<String> {
    let mut children: BTreeMap<Option<&str>, Vec<&str>> = BTreeMap::new();
    for (key, (record, _)) in sound {
        children
            .entry(record.parent.as_deref())
            .or_default()
            .push(key);
    }
    let mut above = vec![None];
    while let Some(parent) = above.pop() {
        above.extend(children.remove(&parent).into_iter().flatten().map(Some));
    }
    children
        .into_values()
        .flatten()
        .map(str::to_owned)
        .collect()
}
