//! Commits of batches. Batches that are committed at the same time share a transaction and a sync.

use std::sync::Mutex;

use cas_core::group::{Answer, Grouped, Queue};
use cas_core::records::{Batch, Change, Expect, conflict};
use cas_core::sync::lock;
use cas_core::{Error, ErrorKind, Result};
use cas_host::{Dir, Reserve};
use rusqlite::{Connection, OptionalExtension, Transaction, TransactionBehavior};
use tokio::sync::oneshot;

use crate::error::{classify, undisturbed};

/// Maximum number of changes in a group, to bound the size of the log and the latency of the first
/// batch. A batch with more changes is a group of its own.
const GROUP: u64 = 512;

/// A batch, and the channel for its outcome.
pub(crate) type Waiting = (Batch, oneshot::Sender<Result<()>>);

/// The connections to one database. Reads have a connection of their own, so they need not wait
/// while a commit waits for the disk.
pub(crate) struct Connections {
    pub(crate) reader: Mutex<Connection>,
    writer: Mutex<Connection>,
    /// The directory, with the reserve. `None` for a read-only database.
    dir: Option<Dir>,
    queue: Queue<Waiting>,
}

impl Connections {
    pub(crate) fn new(reader: Connection, writer: Connection, dir: Option<Dir>) -> Self {
        Connections {
            reader: Mutex::new(reader),
            writer: Mutex::new(writer),
            dir,
            queue: Queue::default(),
        }
    }
}

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
        let answer = |((_, done), outcome): (Waiting, Result<()>)| {
            Box::new(move || {
                // A caller that no longer waits needs no answer.
                let _ = done.send(outcome);
            }) as Answer
        };
        group.into_iter().zip(outcomes).map(answer).collect()
    }
}

/// Writes the log to the database. When a database is closed, SQLite would do this itself, but it
/// would then also remove the log. So `connect` has switched this off.
impl Drop for Connections {
    fn drop(&mut self) {
        if self.dir.is_some() {
            self.fold_log();
        }
    }
}

impl Connections {
    /// Writes a batch in its own transaction. On a full disk, writes the log to the database to
    /// reuse the space of the log, and tries again. If the disk is still full and the batch frees
    /// space, removes the file `reserve`, tries once more, and makes the file again.
    pub(crate) fn write(&self, batch: &Batch) -> Result<()> {
        let write = || match self.try_write(batch) {
            Err(error) if error.kind() == ErrorKind::Full => {
                self.fold_log();
                self.try_write(batch)
            }
            outcome => outcome,
        };
        match &self.dir {
            Some(dir) if batch.reclaims() => Reserve(dir).remove_with(write),
            _ => write(),
        }
    }

    /// Writes the log to the database, as far as readers allow it. If the whole log was written and
    /// no reader uses it, the next commit overwrites the log from the beginning. Ignores failures.
    fn fold_log(&self) {
        let fold = "PRAGMA wal_checkpoint(PASSIVE)";
        let _ = lock(&self.writer).query_row(fold, (), |_| Ok(()));
    }

    fn try_write(&self, batch: &Batch) -> Result<()> {
        if batch.is_empty() {
            return Ok(());
        }
        self.transact(|transaction, last| apply(transaction, batch, last))
    }

    /// Writes all batches in one transaction, or on a full disk, each in its own. Returns the
    /// outcome of each. A batch whose expectations fail does not affect the others. Any other error
    /// of the one transaction is the outcome of all.
    fn write_all(&self, group: &[Waiting]) -> Vec<Result<()>> {
        let written = self.transact(|transaction, last| {
            let outcomes = group.iter().map(|(batch, _)| {
                let before = *last;
                let savepoint = Savepoint::set(transaction, batch)?;
                match apply(transaction, batch, last) {
                    Err(error) if error.kind() == ErrorKind::Conflict => {
                        *last = before;
                        savepoint.roll_back()?;
                        Ok(Err(error))
                    }
                    outcome => {
                        outcome?;
                        savepoint.release()?;
                        Ok(Ok(()))
                    }
                }
            });
            outcomes.collect::<Result<Vec<_>>>()
        });
        match written {
            Ok(outcomes) => outcomes,
            // The disk may have space for some of the batches.
            Err(error) if error.kind() == ErrorKind::Full => {
                group.iter().map(|(batch, _)| self.write(batch)).collect()
            }
            Err(error) => {
                let copy = || Err(Error::new(error.kind(), error.to_string()));
                group.iter().map(|_| copy()).collect()
            }
        }
    }

    /// Runs `work` in a transaction. `work` receives the last revision that a record was given, and
    /// advances it for each change. Returns the result of `work`. If others disturb the
    /// transaction, which is then rolled back, runs `work` in another transaction.
    fn transact<T>(&self, work: impl Fn(&Transaction<'_>, &mut i64) -> Result<T>) -> Result<T> {
        undisturbed(|| self.transact_once(&work))
    }

    fn transact_once<T>(
        &self,
        work: impl FnOnce(&Transaction<'_>, &mut i64) -> Result<T>,
    ) -> Result<T> {
        // A panic drops the transaction, and the drop rolls it back.
        let mut connection = lock(&self.writer);
        let transaction = connection
            .transaction_with_behavior(TransactionBehavior::Immediate)
            .map_err(classify)?;
        let mut last: i64 = transaction
            .prepare_cached("SELECT last FROM revisions")
            .and_then(|mut statement| statement.query_row((), |row| row.get(0)))
            .map_err(classify)?;
        let done = work(&transaction, &mut last)?;
        transaction
            .prepare_cached("UPDATE revisions SET last = ?")
            .and_then(|mut statement| statement.execute((last,)))
            .map_err(classify)?;
        transaction.commit().map_err(classify)?;
        Ok(done)
    }
}

/// The state that a transaction rolls back to if a batch is refused. A batch of one change is
/// refused before it changes anything, so it has no savepoint.
struct Savepoint<'a>(Option<&'a Transaction<'a>>);

impl<'a> Savepoint<'a> {
    fn set(transaction: &'a Transaction<'a>, batch: &Batch) -> Result<Self> {
        let savepoint = Savepoint((batch.changes().len() > 1).then_some(transaction));
        savepoint.run("SAVEPOINT batch")?;
        Ok(savepoint)
    }

    fn release(self) -> Result<()> {
        self.run("RELEASE batch")
    }

    fn roll_back(self) -> Result<()> {
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
            .map_err(classify)
    }
}

fn apply(transaction: &Transaction<'_>, batch: &Batch, last: &mut i64) -> Result<()> {
    for change in batch.changes() {
        check(transaction, change)?;
        *last += 1;
        change_one(transaction, change, *last).map_err(classify)?;
    }
    Ok(())
}

/// Compares the stored record with the expectation of the change.
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
        .map_err(classify)?;
    let as_expected = match &change.expect {
        Expect::Any => true,
        Expect::Absent => found.is_none(),
        Expect::Revision(expected) => {
            found.is_some_and(|found| found.to_string() == expected.as_str())
        }
    };
    if as_expected {
        Ok(())
    } else {
        Err(conflict(change))
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
