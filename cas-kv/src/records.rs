//! Records: the same tables, the same transactions.

use std::collections::HashMap;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use cas_core::content::Durability;
use cas_core::records::{Batch, Change, Expect, Record, Revision, Table, conflict};
use cas_core::{Capabilities, Context, Records, Result};

use crate::engine::Failed;
use crate::group::{self, weight};
use crate::kv::{Kv, Tables};
use crate::store::CAPABILITIES;

/// The records of a store.
pub(crate) struct KvRecords(pub(crate) Arc<Kv>);

#[async_trait]
impl Records for KvRecords {
    fn capabilities(&self) -> Capabilities {
        CAPABILITIES
    }

    async fn load(&self, table: Table, key: &str) -> Result<Option<Record>> {
        let found = self.0.engine.view();
        let found = found.and_then(|view| view.record(table, key));
        let found = found.during("load record", key)?;
        Ok(found.map(|(revision, value)| record(key.to_owned(), revision, value)))
    }

    async fn commit(&self, batch: &Batch) -> Result<()> {
        if batch.is_empty() {
            return Ok(());
        }
        let bytes = bytes(batch);
        let change = group::Change {
            state: batch.clone(),
            weight: weight(batch.changes().len(), bytes),
            patient: false,
            durability: Durability::Full,
        };
        let committed = async {
            if bytes > 0 {
                self.0.take(bytes)?;
            }
            let work = |batch: &mut Batch, tables: &mut Tables<'_>| {
                check(tables, batch)?;
                apply(tables, batch)
            };
            self.0.together(change, work).await
        };
        committed
            .await
            .map_err(|error| error.operation("commit record"))
    }

    async fn scan(
        &self,
        table: Table,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<Record>> {
        let after = after.filter(|after| *after >= prefix);
        let found = self.0.engine.view();
        let found = found.and_then(|view| view.records(table, prefix, after, limit));
        let found = found.during("list records", prefix)?.into_iter();
        Ok(found
            .map(|(key, revision, value)| record(key, revision, value))
            .collect())
    }
}

fn record(key: String, revision: u64, value: Bytes) -> Record {
    Record {
        key,
        value,
        revision: Revision::new(revision.to_string()),
    }
}

/// Bytes that a batch brings.
pub(crate) fn bytes(batch: &Batch) -> u64 {
    let values = batch.changes().iter().flat_map(|change| &change.value);
    values.map(|value| value.len() as u64).sum()
}

/// Plays the batch through without writing: a change sees what those before it leave.
pub(crate) fn check(tables: &mut Tables<'_>, batch: &Batch) -> Result<(), Failed> {
    let mut written: HashMap<(Table, &str), bool> = HashMap::new();
    let mut asked = Vec::new();
    for change in batch.changes() {
        let place = (change.table, change.key.as_str());
        let fits = match (&change.expect, written.get(&place)) {
            (Expect::Any, _) => true,
            (Expect::Absent, Some(there)) => !there,
            // Nobody can know the revision that a change of this very batch will make.
            (Expect::Revision(_), Some(_)) => false,
            (_, None) => {
                asked.push(change);
                true
            }
        };
        if !fits {
            return Err(Failed::Refused(conflict(change)));
        }
        written.insert(place, change.value.is_some());
    }
    for asked in asked.chunk_by(|one, next| one.table == next.table) {
        let keys: Vec<&str> = asked.iter().map(|change| &*change.key).collect();
        let found = tables.tables.revisions(asked[0].table, &keys)?;
        for (change, found) in asked.iter().zip(found) {
            let fits = match &change.expect {
                Expect::Revision(wanted) => {
                    found.is_some() && found == wanted.as_str().parse().ok()
                }
                _ => found.is_none(),
            };
            if !fits {
                return Err(Failed::Refused(conflict(change)));
            }
        }
    }
    Ok(())
}

/// Makes the changes of a batch that was checked.
pub(crate) fn apply(tables: &mut Tables<'_>, batch: &Batch) -> Result<(), Failed> {
    let together = |one: &Change, next: &Change| {
        one.table == next.table && one.value.is_none() && next.value.is_none()
    };
    for run in batch.changes().chunk_by(together) {
        let Change {
            table, key, value, ..
        } = &run[0];
        match value {
            Some(value) => {
                let revision = tables.number()?;
                tables.tables.put(*table, key, revision, value)?;
            }
            None => {
                let keys: Vec<&str> = run.iter().map(|change| &*change.key).collect();
                tables.tables.delete(*table, &keys)?;
            }
        }
    }
    Ok(())
}
