//! Batches of records in transactions: one transaction, and one sync, for all who commit at a time.

use cas_core::group::{Answer, Grouped, Queue};
use cas_core::records::{Batch, Change, Expect, conflict};
use cas_core::{Error, ErrorKind, Result};
use rusqlite::{OptionalExtension, Transaction, TransactionBehavior};
use tokio::sync::oneshot;

use crate::records::{Connections, lock, sort};

/// Most changes of a group, so that the first is not kept long and the log stays short.
const GROUP: u64 = 512;

/// A batch and whoever waits for it.
pub(crate) type Waiting = (Batch, oneshot::Sender<Result<()>>);

impl Grouped for Connections {
    type Job = Waiting;
    const MOST: u64 = GROUP;

    fn queue(&self) -> &Queue<Waiting> {
        &self.queue
    }

    fn weight((batch, _): &Waiting) -> u64 {
        batch.changes().len() as u64
    }

    fn make(&self, group: Vec<Waiting>) -> Vec<Answer> {
        let outcomes = match &group[..] {
            [(batch, _)] => vec![self.write(batch)],
            _ => self.write_all(&group),
        };
        let settled = group.into_iter().zip(outcomes);
        let answer = |((_, done), outcome): (Waiting, Result<()>)| {
            Box::new(move || {
                // Who no longer waits has it all the same.
                let _ = done.send(outcome);
            }) as Answer
        };
        settled.map(answer).collect()
    }
}

impl Connections {
    /// Writes a batch in a transaction of its own; one that removes may use up the reserve.
    pub(crate) fn write(&self, batch: &Batch) -> Result<()> {
        let removes = || batch.changes().iter().any(|change| change.value.is_none());
        match (self.try_write(batch), &self.reserve) {
            (Err(error), Some(reserve))
                if error.kind() == ErrorKind::Full && removes() && reserve.give_up() =>
            {
                self.try_write(batch)
            }
            (outcome, _) => outcome,
        }
    }

    fn try_write(&self, batch: &Batch) -> Result<()> {
        match batch.is_empty() {
            true => Ok(()),
            false => self.transact(|transaction, last| apply(transaction, batch, last)),
        }
    }

    /// Writes all in one transaction; a batch that finds another state than it expects leaves the
    /// others alone.
    fn write_all(&self, group: &[Waiting]) -> Vec<Result<()>> {
        let written = self.transact(|transaction, last| {
            let outcomes = group.iter().map(|(batch, _)| {
                let begun = *last;
                let point = Point::set(transaction, batch)?;
                match apply(transaction, batch, last) {
                    Err(error) if error.kind() == ErrorKind::Conflict => {
                        *last = begun;
                        point.back()?;
                        Ok(Err(error))
                    }
                    outcome => {
                        outcome?;
                        point.release()?;
                        Ok(Ok(()))
                    }
                }
            });
            outcomes.collect::<Result<Vec<_>>>()
        });
        match written {
            Ok(outcomes) => outcomes,
            // What is too much for the disk together may not be one by one.
            Err(error) if error.kind() == ErrorKind::Full => {
                group.iter().map(|(batch, _)| self.write(batch)).collect()
            }
            Err(error) => {
                let again = || Err(Error::new(error.kind(), error.to_string()));
                group.iter().map(|_| again()).collect()
            }
        }
    }

    /// Does `work` in a transaction, with the last revision that was given, which it moves on.
    fn transact<T>(&self, work: impl FnOnce(&Transaction<'_>, &mut i64) -> Result<T>) -> Result<T> {
        let mut connection = lock(&self.writer);
        let transaction = connection
            .transaction_with_behavior(TransactionBehavior::Immediate)
            .map_err(sort)?;
        let mut last: i64 = transaction
            .prepare_cached("SELECT last FROM revisions")
            .and_then(|mut statement| statement.query_row((), |row| row.get(0)))
            .map_err(sort)?;
        let done = work(&transaction, &mut last)?;
        transaction
            .prepare_cached("UPDATE revisions SET last = ?")
            .and_then(|mut statement| statement.execute((last,)))
            .map_err(sort)?;
        transaction.commit().map_err(sort)?;
        Ok(done)
    }
}

/// Where the transaction goes back to when a batch is refused; a batch of one change is refused
/// before it changes anything, and needs none.
struct Point<'a>(Option<&'a Transaction<'a>>);

impl<'a> Point<'a> {
    fn set(transaction: &'a Transaction<'a>, batch: &Batch) -> Result<Self> {
        let point = Point((batch.changes().len() > 1).then_some(transaction));
        point.run("SAVEPOINT batch")?;
        Ok(point)
    }

    fn release(self) -> Result<()> {
        self.run("RELEASE batch")
    }

    fn back(self) -> Result<()> {
        self.run("ROLLBACK TO batch")?;
        self.run("RELEASE batch")
    }

    fn run(&self, statement: &str) -> Result<()> {
        let Some(transaction) = self.0 else {
            return Ok(());
        };
        transaction
            .prepare_cached(statement)
            .and_then(|mut statement| statement.execute(()))
            .map(|_| ())
            .map_err(sort)
    }
}

fn apply(transaction: &Transaction<'_>, batch: &Batch, last: &mut i64) -> Result<()> {
    for change in batch.changes() {
        check(transaction, change)?;
        *last += 1;
        change_one(transaction, change, *last).map_err(sort)?;
    }
    Ok(())
}

/// Compares what is there with what the change expects.
fn check(transaction: &Transaction<'_>, change: &Change) -> Result<()> {
    if change.expect == Expect::Any {
        return Ok(());
    }
    let found: Option<i64> = transaction
        .prepare_cached("SELECT revision FROM records WHERE kind = ? AND key = ?")
        .and_then(|mut statement| {
            statement
                .query_row((change.table.name(), &change.key), |row| row.get(0))
                .optional()
        })
        .map_err(sort)?;
    let as_expected = match &change.expect {
        Expect::Any => true,
        Expect::Absent => found.is_none(),
        Expect::Revision(expected) => {
            found.is_some_and(|found| found.to_string() == expected.as_str())
        }
    };
    match as_expected {
        true => Ok(()),
        false => Err(conflict(change)),
    }
}

fn change_one(tx: &Transaction<'_>, change: &Change, revision: i64) -> rusqlite::Result<()> {
    let (kind, key) = (change.table.name(), &change.key);
    match &change.value {
        Some(value) => tx
            .prepare_cached("INSERT OR REPLACE INTO records VALUES (?, ?, ?, ?)")?
            .execute((kind, key, value.as_ref(), revision))?,
        None => tx
            .prepare_cached("DELETE FROM records WHERE kind = ? AND key = ?")?
            .execute((kind, key))?,
    };
    Ok(())
}
