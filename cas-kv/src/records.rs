//! Records, in the same database as the blobs.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use cas_core::content::Durability;
use cas_core::records::{Batch, Record, Revision, Table};
use cas_core::{Capabilities, Context, Records, Result};

use crate::CAPABILITIES;
use crate::batch::{apply, check, value_bytes};
use crate::engine::View;
use crate::job::{Change, weight};
use crate::kv::Kv;
use crate::tx::Tx;

/// The records store.
pub(crate) struct KvRecords(pub(crate) Arc<Kv>);

#[async_trait]
impl Records for KvRecords {
    fn capabilities(&self) -> Capabilities {
        CAPABILITIES
    }

    async fn load(&self, table: Table, key: &str) -> Result<Option<Record>> {
        let found = self.0.read(|view| view.record(table, key));
        let found = found.during("load record", key)?;
        Ok(found.map(|(revision, value)| record(key.to_owned(), revision, value)))
    }

    async fn commit(&self, batch: &Batch) -> Result<()> {
        if batch.is_empty() {
            return Ok(());
        }
        let bytes = value_bytes(batch);
        let change = Change {
            state: batch.clone(),
            weight: weight(batch.changes().len(), bytes),
            low_priority: false,
            durability: Durability::Full,
        };
        let committed = async {
            if bytes > 0 && !batch.reclaims() {
                self.0.claim_space(bytes)?;
            }
            let work = |batch: &mut Batch, tx: &mut Tx<'_>| {
                check(tx, batch)?;
                apply(tx, batch)
            };
            self.0.submit(change, work).await
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
        let read = |view: &dyn View| view.records(table, prefix, after, limit);
        let found = self.0.read(read);
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
