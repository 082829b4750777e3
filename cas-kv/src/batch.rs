//! Batches of record changes inside a transaction.

use std::collections::HashMap;

use cas_core::records::{Batch, Change, Expect, Table, conflict};

use crate::engine::Failed;
use crate::tx::Tx;

/// Returns the total size in bytes of the values that a batch writes.
pub(crate) fn value_bytes(batch: &Batch) -> u64 {
    let values = batch.changes().iter().flat_map(|change| &change.value);
    values.map(|value| value.len() as u64).sum()
}

/// Checks the expectations of a batch without writing. Each change is checked against the state
/// that the changes before it would leave.
///
/// # Errors
/// [`Failed::Refused`] with `Conflict` if a change does not find the state that it expects;
/// [`Failed::Broken`] if the engine fails.
pub(crate) fn check(tx: &mut Tx<'_>, batch: &Batch) -> Result<(), Failed> {
    let mut written: HashMap<(Table, &str), bool> = HashMap::new();
    let mut unwritten = Vec::new();
    for change in batch.changes() {
        let key = (change.table, change.key.as_str());
        let fits = match (&change.expect, written.get(&key)) {
            (Expect::Any, _) => true,
            (Expect::Absent, Some(exists)) => !exists,
            // A caller cannot know the revision that this batch will write.
            (Expect::Revision(_), Some(_)) => false,
            (_, None) => {
                unwritten.push(change);
                true
            }
        };
        if !fits {
            return Err(Failed::Refused(conflict(change)));
        }
        written.insert(key, change.value.is_some());
    }
    for changes in unwritten.chunk_by(|one, next| one.table == next.table) {
        let keys: Vec<&str> = changes.iter().map(|change| &*change.key).collect();
        let found = tx.inner.revisions(changes[0].table, &keys)?;
        for (change, found) in changes.iter().zip(found) {
            let fits = match &change.expect {
                Expect::Revision(expected) => {
                    found.is_some() && found == expected.as_str().parse().ok()
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

/// Applies a batch that [`check`] accepted.
pub(crate) fn apply(tx: &mut Tx<'_>, batch: &Batch) -> Result<(), Failed> {
    let both_remove = |one: &Change, next: &Change| {
        one.table == next.table && one.value.is_none() && next.value.is_none()
    };
    for run in batch.changes().chunk_by(both_remove) {
        let Change {
            table, key, value, ..
        } = &run[0];
        match value {
            Some(value) => {
                let revision = tx.next_number()?;
                tx.inner.put_record(*table, key, revision, value)?;
            }
            None => {
                let keys: Vec<&str> = run.iter().map(|change| &*change.key).collect();
                tx.inner.remove_records(*table, &keys)?;
            }
        }
    }
    Ok(())
}
