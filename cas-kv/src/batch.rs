//! Batches of records in a transaction.

use std::collections::HashMap;

use cas_core::records::{Batch, Change, Expect, Table, conflict};

use crate::engine::Failed;
use crate::tables::Tables;

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
