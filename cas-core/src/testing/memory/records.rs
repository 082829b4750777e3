//! Records in memory. A batch is checked as a whole before any of it is applied.

use std::collections::{BTreeMap, HashMap};
use std::ops::Bound;

use async_trait::async_trait;
use bytes::Bytes;

use super::{MemoryStore, read, write};
use crate::capability::Capabilities;
use crate::error::Result;
use crate::records::{Batch, Change, Expect, Record, Records, Revision, Table, conflict};

/// Every table, and the latest revision: the number of values written so far.
#[derive(Default)]
pub(super) struct Tables {
    tables: [BTreeMap<String, Entry>; Table::ALL.len()],
    changes: u64,
}

struct Entry {
    value: Bytes,
    revision: Revision,
}

impl Tables {
    /// Applies all of the batch, or nothing of it.
    pub(super) fn commit(&mut self, batch: &Batch) -> Result<()> {
        self.check(batch)?;
        for change in batch.changes() {
            self.apply(change);
        }
        Ok(())
    }

    /// Checks the batch without applying it. Each change is checked against the results of the
    /// changes before it.
    fn check(&self, batch: &Batch) -> Result<()> {
        let mut written: HashMap<(Table, &str), bool> = HashMap::new();
        for change in batch.changes() {
            let key = (change.table, change.key.as_str());
            let stored = self.tables[change.table as usize].get(&change.key);
            let fits = match (&change.expect, written.get(&key)) {
                (Expect::Any, _) => true,
                (Expect::Absent, Some(exists)) => !exists,
                (Expect::Absent, None) => stored.is_none(),
                // The caller cannot know a revision that this batch creates.
                (Expect::Revision(_), Some(_)) => false,
                (Expect::Revision(wanted), None) => {
                    stored.is_some_and(|entry| entry.revision == *wanted)
                }
            };
            if !fits {
                return Err(conflict(change));
            }
            written.insert(key, change.value.is_some());
        }
        Ok(())
    }

    fn apply(&mut self, change: &Change) {
        let table = &mut self.tables[change.table as usize];
        let Some(value) = change.value.clone() else {
            table.remove(&change.key);
            return;
        };
        self.changes += 1;
        let revision = Revision::new(self.changes.to_string());
        table.insert(change.key.clone(), Entry { value, revision });
    }
}

#[async_trait]
impl Records for MemoryStore {
    fn capabilities(&self) -> Capabilities {
        MemoryStore::CAPABILITIES
    }

    async fn load(&self, table: Table, key: &str) -> Result<Option<Record>> {
        let tables = read(&self.0.tables);
        let found = tables.tables[table as usize].get_key_value(key);
        Ok(found.map(record))
    }

    async fn commit(&self, batch: &Batch) -> Result<()> {
        write(&self.0.tables).commit(batch)
    }

    async fn scan(
        &self,
        table: Table,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<Record>> {
        let from = match after {
            Some(after) if after >= prefix => Bound::Excluded(after),
            _ => Bound::Included(prefix),
        };
        let tables = read(&self.0.tables);
        let page = tables.tables[table as usize]
            .range::<str, _>((from, Bound::Unbounded))
            .take_while(|(key, _)| key.starts_with(prefix))
            .take(limit)
            .map(record);
        Ok(page.collect())
    }
}

fn record((key, entry): (&String, &Entry)) -> Record {
    Record {
        key: key.clone(),
        value: entry.value.clone(),
        revision: entry.revision.clone(),
    }
}
