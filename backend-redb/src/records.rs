//! Records: the same file, the same transactions.

use std::collections::HashMap;
use std::ops::Bound;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use cas_core::content::Durability;
use cas_core::records::{Batch, Expect, Record, Revision, Table, conflict};
use cas_core::{Capabilities, Context, Records, Result};
use redb::ReadableTable;

use crate::engine::Engine;
use crate::error::{Failed, corrupt, sort};
use crate::group::{Change, weight};
use crate::store::CAPABILITIES;
use crate::tables::Tables;

/// The records of a store.
pub(crate) struct RedbRecords(pub(crate) Arc<Engine>);

#[async_trait]
impl Records for RedbRecords {
    fn capabilities(&self) -> Capabilities {
        CAPABILITIES
    }

    async fn load(&self, table: Table, key: &str) -> Result<Option<Record>> {
        let view = self.0.view()?;
        let found = view.records(table).get(key.as_bytes()).map_err(sort);
        let found = found.during("load record", key)?;
        Ok(found.map(|found| record(key.to_owned(), found.value())))
    }

    async fn commit(&self, batch: &Batch) -> Result<()> {
        if batch.is_empty() {
            return Ok(());
        }
        let bytes = bytes(batch);
        let change = Change {
            state: batch.clone(),
            weight: weight(batch.changes().len(), bytes),
            patient: false,
            durability: Durability::Full,
        };
        let committed = async {
            if bytes > 0 {
                self.0.space.take(bytes)?;
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
        let from = match after {
            Some(after) if after >= prefix => Bound::Excluded(after.as_bytes()),
            _ => Bound::Included(prefix.as_bytes()),
        };
        let view = self.0.view()?;
        let mut page = Vec::new();
        let rows = view.records(table).range::<&[u8]>((from, Bound::Unbounded));
        for row in rows.map_err(sort)?.take(limit) {
            let (key, value) = row.map_err(sort)?;
            if !key.value().starts_with(prefix.as_bytes()) {
                break;
            }
            let key = String::from_utf8(key.value().to_vec());
            let key = key.map_err(|_| corrupt("the key of a record is no text"))?;
            page.push(record(key, value.value()));
        }
        Ok(page)
    }
}

fn record(key: String, (revision, value): (u64, &[u8])) -> Record {
    Record {
        key,
        value: Bytes::copy_from_slice(value),
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
    for change in batch.changes() {
        let place = (change.table, change.key.as_str());
        let fits = match (&change.expect, written.get(&place)) {
            (Expect::Any, _) => true,
            (Expect::Absent, Some(there)) => !there,
            // Nobody can know the revision that a change of this very batch will make.
            (Expect::Revision(_), Some(_)) => false,
            (expect, None) => {
                let found = tables.records(change.table).get(place.1.as_bytes())?;
                let found = found.map(|found| found.value().0);
                match expect {
                    Expect::Revision(wanted) => {
                        found.is_some() && found == wanted.as_str().parse().ok()
                    }
                    _ => found.is_none(),
                }
            }
        };
        if !fits {
            return Err(Failed::Refused(conflict(change)));
        }
        written.insert(place, change.value.is_some());
    }
    Ok(())
}

/// Makes the changes of a batch that was checked.
pub(crate) fn apply(tables: &mut Tables<'_>, batch: &Batch) -> Result<(), Failed> {
    for change in batch.changes() {
        let key = change.key.as_bytes();
        match &change.value {
            Some(value) => {
                let revision = tables.number()?;
                let table = tables.records(change.table);
                table.insert(key, (revision, value.as_ref()))?;
            }
            None => {
                tables.records(change.table).remove(key)?;
            }
        }
    }
    Ok(())
}
