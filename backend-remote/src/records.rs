//! The records store: one cell per record. A batch is applied change by change, not atomically.

use async_trait::async_trait;
use cas_core::records::{Batch, Change, Record, Records, Table, conflict};
use cas_core::{Capabilities, Context, Error, ErrorKind, Result};

use crate::cell::Cell;
use crate::error::foreign_object;
use crate::object_name::{escape, unescape};
use crate::runtime;
use crate::store::{Remote, RemoteStore};

fn folder(table: Table) -> String {
    format!("records/{}/", table.name())
}

fn path(table: Table, key: &str) -> Result<String> {
    if key.is_empty() {
        return Err(
            Error::invalid("the key of a record is empty; give a key").subject(table.name())
        );
    }
    Ok(folder(table) + &escape(key))
}

impl Remote {
    async fn record(&self, table: Table, key: &str) -> Result<Option<Record>> {
        let cell = self.cells.load(&path(table, key)?).await?;
        Ok(cell.map(|cell| Record {
            key: key.to_owned(),
            value: cell.value,
            revision: cell.revision,
        }))
    }

    async fn change(&self, change: &Change) -> Result<()> {
        let path = path(change.table, &change.key)?;
        let value = change.value.clone();
        if self.cells.swap(&path, &change.expect, value).await? {
            Ok(())
        } else {
            Err(conflict(change))
        }
    }

    /// Makes a change. If the disk is full and `reclaims` is set, removes the file `reserve` to
    /// make room for the change, and creates the file again afterwards.
    async fn change_or_reclaim(&self, change: &Change, reclaims: bool) -> Result<()> {
        let Some(folder) = self.cells.prefix().folder().filter(|_| reclaims) else {
            return self.change(change).await;
        };
        let tried = folder.reclaiming.read().await;
        let done = self.change(change).await;
        drop(tried);
        let full = match done {
            Err(error) if error.kind() == ErrorKind::Full => error,
            done => return done,
        };
        let _alone = folder.reclaiming.write().await;
        let mut done = self.change(change).await;
        if matches!(&done, Err(error) if error.kind() == ErrorKind::Full)
            && folder.release_reserve()
        {
            done = self.change(change).await;
            folder.create_reserve();
        }
        match done {
            // A later attempt did not find the expected record: the first attempt has probably
            // changed it, and only the sync failed.
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::Conflict) => {
                Err(full)
            }
            done => done,
        }
    }

    async fn page(
        &self,
        table: Table,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<Record>> {
        let (folder, prefix, after) = (folder(table), escape(prefix), after.map(escape));
        let page = self.cells.list(&folder, &prefix, after, limit).await?;
        let record = |(name, cell): (String, Cell)| {
            let key =
                unescape(&name).ok_or_else(|| foreign_object(format_args!("{folder}{name}")))?;
            let Cell { value, revision } = cell;
            Ok(Record {
                key,
                value,
                revision,
            })
        };
        page.into_iter().map(record).collect()
    }
}

#[async_trait]
impl Records for RemoteStore {
    fn capabilities(&self) -> Capabilities {
        self.0.capabilities
    }

    async fn load(&self, table: Table, key: &str) -> Result<Option<Record>> {
        let (remote, key) = (self.0.clone(), key.to_owned());
        runtime::run(async move {
            let record = remote.record(table, &key).await;
            record.during("load record", format_args!("{}/{key}", table.name()))
        })
        .await
    }

    async fn commit(&self, batch: &Batch) -> Result<()> {
        let (remote, batch) = (self.0.clone(), batch.clone());
        runtime::run(async move {
            for change in batch.changes() {
                let done = remote.change_or_reclaim(change, batch.reclaims()).await;
                let (table, key) = (change.table.name(), &change.key);
                done.during("commit record", format_args!("{table}/{key}"))?;
            }
            Ok(())
        })
        .await
    }

    async fn scan(
        &self,
        table: Table,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<Record>> {
        let remote = self.0.clone();
        let (prefix, after) = (prefix.to_owned(), after.map(str::to_owned));
        runtime::run(async move {
            let page = remote.page(table, &prefix, after.as_deref(), limit).await;
            page.during("scan records", table.name())
        })
        .await
    }
}
