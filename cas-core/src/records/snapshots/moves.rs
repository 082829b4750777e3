//! The changes of state: the conditions of each change, and the batch that makes it.
//!
//! A batch that adds a child to a parent changes the parent first. A batch that removes a child
//! changes the parent last. A batch that moves a child to another key first writes the unchanged
//! parent, which gives the parent a new revision. As long as the revision of a parent stays the
//! same, the parent therefore has the same children under the same keys.

use std::time::SystemTime;

use super::record::{New, SnapshotContent, SnapshotRecord};
use super::{Seen, Snapshots};
use crate::error::{Error, Result};
use crate::image::fieldpath::update_labels;
use crate::labels::{Labels, check_labels};
use crate::limit;
use crate::records::{Batch, Expect, Table};
use crate::snapshot::{Commit, Info, SnapshotKind};
use crate::time::later;

impl Snapshots {
    /// Checks that `new` may be created. Returns its parent.
    pub(super) async fn parent_for(&self, new: &New<'_>) -> Result<Option<Seen>> {
        check_key(new.key)?;
        check_labels(new.labels)?;
        if self.seen(new.key).await?.is_some() {
            return Err(already_exists(new.key));
        }
        match new.parent {
            None => Ok(None),
            Some(parent) => self.committed(parent).await.map(Some),
        }
    }

    pub(super) async fn plan_create(
        &self,
        new: &New<'_>,
        id: u64,
    ) -> Result<(Batch, SnapshotRecord)> {
        let mut batch = Batch::new();
        if let (Some(parent), Some(key)) = (self.parent_for(new).await?, new.parent) {
            self.adopt(&mut batch, key, parent)?;
        }
        let record = SnapshotRecord::new(new, id);
        self.put(&mut batch, new.key, &record, Expect::Absent)?;
        Ok((batch, record))
    }

    pub(super) async fn plan_commit(
        &self,
        name: &str,
        key: &str,
        options: &Commit,
        content: SnapshotContent,
    ) -> Result<(Batch, SnapshotRecord)> {
        check_key(name)?;
        check_labels(&options.labels)?;
        let Seen {
            mut record,
            revision,
        } = self.existing(key).await?;
        record.must_be_active(key)?;
        content.check_of(key, &record)?;
        if self.seen(name).await?.is_some() {
            return Err(already_exists(name));
        }
        let mut batch = Batch::new();
        if let Some(parent) = record.new_parent(key, options)? {
            let seen = self.committed(parent).await?;
            self.adopt(&mut batch, parent, seen)?;
            record.parent = Some(parent.to_owned());
        } else if let Some(parent) = &record.parent
            && let Some(seen) = self.seen(parent).await?
        {
            // The child gets another key. The new revision of its parent tells this to a repair,
            // which could otherwise find the child under both keys or under none.
            let expect = Expect::Revision(seen.revision);
            self.put(&mut batch, parent, &seen.record, expect)?;
        }
        let now = SystemTime::now();
        let record = SnapshotRecord {
            kind: SnapshotKind::Committed,
            labels: options.labels.clone(),
            created_at: now,
            updated_at: now,
            usage: Some(content.usage),
            id: content.id.unwrap_or(record.id),
            ..record
        };
        self.put(&mut batch, name, &record, Expect::Absent)?;
        batch.delete(Table::Snapshots, self.row(key), Expect::Revision(revision));
        Ok((batch, record))
    }

    /// Plans nothing if the snapshot does not exist, was updated since it was seen, or was removed
    /// and its key was used again.
    pub(super) async fn plan_remove_seen(
        &self,
        info: &Info,
    ) -> Result<(Batch, Option<SnapshotRecord>)> {
        let found = self.seen(&info.key).await?;
        match found.filter(|found| found.record.info(&info.key) == *info) {
            None => Ok((Batch::new(), None)),
            Some(found) => {
                let (batch, record) = self.removal(&info.key, found).await?;
                Ok((batch, Some(record)))
            }
        }
    }

    pub(super) async fn plan_remove(&self, key: &str) -> Result<(Batch, SnapshotRecord)> {
        let seen = self.existing(key).await?;
        self.removal(key, seen).await
    }

    pub(super) async fn removal(&self, key: &str, seen: Seen) -> Result<(Batch, SnapshotRecord)> {
        let Seen { record, revision } = seen;
        if record.children > 0 {
            let message = format!(
                "the snapshot still has children ({}); remove them first",
                record.children
            );
            return Err(Error::precondition(message).subject(key));
        }
        let mut batch = Batch::new();
        batch.delete(Table::Snapshots, self.row(key), Expect::Revision(revision));
        if let Some(parent) = &record.parent
            && let Some(mut seen) = self.seen(parent).await?
        {
            seen.record.children = seen.record.children.saturating_sub(1);
            let expect = Expect::Revision(seen.revision);
            self.put(&mut batch, parent, &seen.record, expect)?;
        }
        Ok((batch, record))
    }

    pub(super) async fn plan_update(
        &self,
        key: &str,
        labels: &Labels,
        fieldpaths: &[&str],
    ) -> Result<(Batch, Info)> {
        let mut seen = self.existing(key).await?;
        update_labels(&mut seen.record.labels, labels, fieldpaths)?;
        check_labels(&seen.record.labels)?;
        seen.record.updated_at = later(seen.record.updated_at);
        let mut batch = Batch::new();
        let expect = Expect::Revision(seen.revision);
        self.put(&mut batch, key, &seen.record, expect)?;
        Ok((batch, seen.record.info(key)))
    }

    /// Returns the snapshot `key`, which must be committed so that it can be a parent.
    async fn committed(&self, key: &str) -> Result<Seen> {
        let seen = self.seen(key).await?;
        let seen = seen.ok_or_else(|| {
            Error::not_found("no such parent; name a committed snapshot").subject(key)
        })?;
        match seen.record.kind {
            SnapshotKind::Committed => Ok(seen),
            kind => {
                let found = kind.as_str();
                let message = format!(
                    "expected a committed parent, found the state {found}; name a committed \
                     snapshot"
                );
                Err(Error::invalid(message).subject(key))
            }
        }
    }

    /// Adds to `batch` a write that increases the number of children of `parent` by one. `key` is
    /// the key of `parent`.
    fn adopt(&self, batch: &mut Batch, key: &str, mut parent: Seen) -> Result<()> {
        parent.record.children += 1;
        let expect = Expect::Revision(parent.revision);
        self.put(batch, key, &parent.record, expect)
    }

    pub(super) fn put(
        &self,
        batch: &mut Batch,
        key: &str,
        record: &SnapshotRecord,
        expect: Expect,
    ) -> Result<()> {
        let row = self.row(key);
        let value = record.encode(&row)?;
        batch.put(Table::Snapshots, row, expect, value);
        Ok(())
    }
}

impl SnapshotRecord {
    /// Checks that the snapshot is active. The error names `key`, the key of the snapshot.
    ///
    /// # Errors
    /// `FailedPrecondition` if the snapshot is a view or committed.
    pub fn must_be_active(&self, key: &str) -> Result<()> {
        match self.kind {
            SnapshotKind::Active => Ok(()),
            kind => {
                let found = kind.as_str();
                let message = format!(
                    "expected an active snapshot, found the state {found}; give the key of an \
                     active snapshot"
                );
                Err(Error::precondition(message).subject(key))
            }
        }
    }

    /// Returns the parent that a commit adds, or `None` if it adds none. The error names `key`, the
    /// key of the snapshot.
    ///
    /// # Errors
    /// `InvalidArgument` if the snapshot already has another parent than `options` names.
    pub fn new_parent<'a>(&self, key: &str, options: &'a Commit) -> Result<Option<&'a str>> {
        match (&self.parent, &options.parent) {
            (Some(old), Some(new)) if old != new => {
                let message = format!(
                    "a commit cannot change the parent from {old} to {new}; commit without naming \
                     a parent"
                );
                Err(Error::invalid(message).subject(key))
            }
            (None, Some(new)) => Ok(Some(new)),
            _ => Ok(None),
        }
    }
}

fn check_key(key: &str) -> Result<()> {
    let message = if key.is_empty() {
        "the key is empty; choose a key".into()
    } else if key.len() > limit::KEY {
        format!(
            "the key has {} bytes: at most {} are allowed; choose a shorter key",
            key.len(),
            limit::KEY
        )
    } else if key.chars().any(char::is_control) {
        "the key contains a control character; choose another key".into()
    } else {
        return Ok(());
    };
    Err(Error::invalid(message).subject(format!("{key:.100}")))
}

fn already_exists(key: &str) -> Error {
    Error::already_exists("a snapshot with this key exists; remove it or choose another key")
        .subject(key)
}
