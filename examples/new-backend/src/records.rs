//! Records: one row each. A batch is one transaction of compare-and-swap changes.

use std::sync::Arc;

use async_trait::async_trait;
use cas_core::content::Durability;
use cas_core::records::{Batch, Change, Expect, Record, Revision, Table, conflict};
use cas_core::{Capabilities, Context, Records, Result, pool};
use rusqlite::{OptionalExtension, Row, Transaction};

use crate::CAPABILITIES;
use crate::engine::{Engine, number};
use crate::error::Failed;

pub(crate) struct SqliteRecords(pub(crate) Arc<Engine>);

#[async_trait]
impl Records for SqliteRecords {
    fn capabilities(&self) -> Capabilities {
        CAPABILITIES
    }

    async fn load(&self, table: Table, key: &str) -> Result<Option<Record>> {
        let sql = "SELECT key, value, revision FROM records WHERE kind = ? AND key = ?";
        let found = self.0.read(|db| {
            let mut statement = db.prepare_cached(sql)?;
            Ok(statement
                .query_row((table.name(), key), record)
                .optional()?)
        });
        found.during("load record", key)
    }

    async fn commit(&self, batch: &Batch) -> Result<()> {
        if batch.is_empty() {
            return Ok(());
        }
        let (engine, batch) = (Arc::clone(&self.0), batch.clone());
        let commit = move || engine.write(Durability::Full, |tx| apply(tx, &batch));
        pool::run(commit).await
    }

    async fn scan(
        &self,
        table: Table,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<Record>> {
        let sql = "SELECT key, value, revision FROM records
                   WHERE kind = ?1 AND key >= ?2 AND (?3 IS NULL OR key > ?3)
                   ORDER BY key LIMIT ?4";
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        // Start at the cursor, not at the prefix, or each page would scan the pages before it.
        let from = after.map_or(prefix, |after| after.max(prefix));
        let page = self.0.read(|db| {
            let mut statement = db.prepare_cached(sql)?;
            let rows = statement.query_map((table.name(), from, after, limit), record)?;
            let within = |row: &rusqlite::Result<Record>| {
                row.as_ref()
                    .map_or(true, |record| record.key.starts_with(prefix))
            };
            Ok(rows.take_while(within).collect::<Result<_, _>>()?)
        });
        page.during("scan records", prefix)
    }
}

fn record(row: &Row<'_>) -> rusqlite::Result<Record> {
    Ok(Record {
        key: row.get(0)?,
        value: row.get::<_, Vec<u8>>(1)?.into(),
        revision: Revision::new(row.get::<_, i64>(2)?.to_string()),
    })
}

/// Applies the changes of a batch in order. A conflict rolls the transaction back.
pub(crate) fn apply(tx: &Transaction<'_>, batch: &Batch) -> Result<(), Failed> {
    for change in batch.changes() {
        let (kind, key) = (change.table.name(), change.key.as_str());
        if !is_as_expected(tx, change)? {
            return Err(Failed(conflict(change)));
        }
        match &change.value {
            Some(value) => tx
                .prepare_cached("INSERT OR REPLACE INTO records VALUES (?, ?, ?, ?)")?
                .execute((kind, key, value.as_ref(), number(tx)?))?,
            None => tx
                .prepare_cached("DELETE FROM records WHERE kind = ? AND key = ?")?
                .execute((kind, key))?,
        };
    }
    Ok(())
}

fn is_as_expected(tx: &Transaction<'_>, change: &Change) -> rusqlite::Result<bool> {
    let found: Option<i64> = tx
        .prepare_cached("SELECT revision FROM records WHERE kind = ? AND key = ?")?
        .query_row((change.table.name(), &change.key), |row| row.get(0))
        .optional()?;
    Ok(match &change.expect {
        Expect::Any => true,
        Expect::Absent => found.is_none(),
        Expect::Revision(seen) => found.is_some_and(|found| found.to_string() == seen.as_str()),
    })
}
