//! Records with nothing but a compare-and-swap on single keys.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::atomic::Ordering;

use async_trait::async_trait;

use super::StrictStore;
use crate::capability::Capabilities;
use crate::error::{Error, Result};
use crate::pool::give_way;
use crate::records::{Batch, Change, Expect, Record, Records, Revision, Table, conflict};
use crate::sync::lock;

/// Every table, and the latest revision: the number of values written so far.
#[derive(Default)]
pub(super) struct Tables {
    tables: [BTreeMap<String, Record>; Table::ALL.len()],
    changes: u64,
}

impl Tables {
    fn swap(&mut self, change: &Change) -> Result<()> {
        let table = &mut self.tables[change.table as usize];
        let found = table.get(&change.key).map(|record| &record.revision);
        let fits = match &change.expect {
            Expect::Any => true,
            Expect::Absent => found.is_none(),
            Expect::Revision(wanted) => found == Some(wanted),
        };
        if !fits {
            return Err(conflict(change));
        }
        let Some(value) = change.value.clone() else {
            table.remove(&change.key);
            return Ok(());
        };
        self.changes += 1;
        let record = Record {
            key: change.key.clone(),
            value,
            revision: Revision::new(self.changes.to_string()),
        };
        table.insert(change.key.clone(), record);
        Ok(())
    }
}

impl StrictStore {
    /// Plans a fault: after `changes` more changes of records, the next change fails with
    /// `Unavailable`, as if the service had failed in the middle of a batch. Later changes work
    /// again.
    pub fn fail_after(&self, changes: usize) {
        self.0.healthy.store(changes, Ordering::SeqCst);
    }

    fn meet_fault(&self, change: &Change) -> Result<()> {
        let step = |left: usize| {
            Some(if left == usize::MAX {
                left
            } else {
                left.wrapping_sub(1)
            })
        };
        match self
            .0
            .healthy
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, step)
        {
            Ok(0) => Err(Error::unavailable("a planned fault; retry")
                .operation("commit record")
                .subject(&change.key)),
            _ => Ok(()),
        }
    }
}

#[async_trait]
impl Records for StrictStore {
    fn capabilities(&self) -> Capabilities {
        StrictStore::CAPABILITIES
    }

    async fn load(&self, table: Table, key: &str) -> Result<Option<Record>> {
        give_way().await;
        let found = lock(&self.0.tables).tables[table as usize]
            .get(key)
            .cloned();
        give_way().await;
        Ok(found)
    }

    async fn commit(&self, batch: &Batch) -> Result<()> {
        for change in batch.changes() {
            give_way().await;
            self.meet_fault(change)?;
            lock(&self.0.tables).swap(change)?;
        }
        give_way().await;
        Ok(())
    }

    /// Reads one record at a time, so the first may be outdated when the last is read.
    async fn scan(
        &self,
        table: Table,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<Record>> {
        let mut page: Vec<Record> = Vec::new();
        while page.len() < limit {
            let cursor = page.last().map(|record| record.key.as_str()).or(after);
            let from = match cursor {
                Some(cursor) if cursor >= prefix => Bound::Excluded(cursor),
                _ => Bound::Included(prefix),
            };
            let next = lock(&self.0.tables).tables[table as usize]
                .range::<str, _>((from, Bound::Unbounded))
                .next()
                .filter(|(key, _)| key.starts_with(prefix))
                .map(|(_, record)| record.clone());
            give_way().await;
            match next {
                Some(record) => page.push(record),
                None => break,
            }
        }
        Ok(page)
    }
}
