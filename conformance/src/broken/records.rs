//! Records stores with one fault each.

use std::sync::Arc;

use async_trait::async_trait;
use cas_core::image::RecordImages;
use cas_core::records::{Batch, Change, Expect, Record, Revision, Table};
use cas_core::testing::memory::MemoryStore;
use cas_core::{Capabilities, Digest, Records, Result, Store};
use serde_json::Value;

use super::content::MANY;

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum RecordFault {
    IgnoresExpectations,
    OverwritesNotes,
    AppliesHalfABatch,
    /// A commit checks the expectations of only the first [`MANY`] changes in a batch.
    LooksAtTheFirst,
    /// A revision is the hash of the value, like the entity tags of some services.
    RepeatsRevisions,
    ReadsPrefixesAsPatterns,
    MixesTables,
    CutsLongValues,
    CreatesOverWhatIsThere,
    AppliesBackwards,
    FoldsCase,
    PagesWithoutLimit,
    /// For tests of a whole store: a scan finds no leases.
    ForgetsLeases,
    /// For tests of a whole store: a record of a blob loses its labels when it is written with
    /// unchanged labels.
    ForgetsLabels,
    /// For tests of a whole store: a record of a blob is written without its owners.
    ForgetsOwners,
}

use RecordFault as Fault;

pub(super) struct BrokenRecords {
    store: MemoryStore,
    fault: Fault,
}

impl BrokenRecords {
    pub(super) fn new(fault: Fault) -> Self {
        let store = MemoryStore::new();
        BrokenRecords { store, fault }
    }

    /// Returns a whole store: these records, images that are kept in these records, and the content
    /// of the memory store that the records wrap.
    pub(super) fn whole(self) -> Store {
        let store = self.store.clone();
        let broken = Arc::new(self);
        Store {
            content: Arc::new(store),
            records: broken.clone(),
            images: Arc::new(RecordImages::new(broken)),
        }
    }

    fn table(&self, table: Table) -> Table {
        match self.fault {
            Fault::MixesTables => Table::Blobs,
            _ => table,
        }
    }

    fn shown(&self, mut record: Record) -> Record {
        if self.fault == Fault::RepeatsRevisions {
            record.revision = Revision::new(Digest::sha256(&record.value).hex());
        }
        record
    }

    async fn forget_labels(&self, change: &mut Change) -> Result<()> {
        let labels = |record: &Value| record.get("labels").cloned();
        let found = self.store.load(change.table, &change.key).await?;
        let (Some(found), Some(value)) = (found, &change.value) else {
            return Ok(());
        };
        let before: Value = serde_json::from_slice(&found.value).unwrap();
        let mut after: Value = serde_json::from_slice(value).unwrap();
        if labels(&before) == labels(&after) {
            after.as_object_mut().unwrap().remove("labels");
            change.value = Some(after.to_string().into());
        }
        Ok(())
    }

    async fn changed(&self, mut change: Change) -> Result<Change> {
        change.table = self.table(change.table);
        match self.fault {
            Fault::IgnoresExpectations if matches!(change.expect, Expect::Revision(_)) => {
                change.expect = Expect::Any;
            }
            Fault::OverwritesNotes if change.table == Table::Notes => {
                change.expect = Expect::Any;
            }
            Fault::CreatesOverWhatIsThere if change.expect == Expect::Absent => {
                change.expect = Expect::Any;
            }
            Fault::FoldsCase => change.key.make_ascii_lowercase(),
            Fault::CutsLongValues => {
                change.value = change
                    .value
                    .map(|value| value.slice(..value.len().min(65_535)));
            }
            Fault::ForgetsLabels if change.table == Table::Blobs => {
                self.forget_labels(&mut change).await?;
            }
            Fault::ForgetsOwners if change.table == Table::Blobs => {
                if let Some(value) = &change.value {
                    let mut record: Value = serde_json::from_slice(value).unwrap();
                    record.as_object_mut().unwrap().remove("owners");
                    change.value = Some(record.to_string().into());
                }
            }
            Fault::RepeatsRevisions => {
                let found = self.store.load(change.table, &change.key).await?;
                if let (Expect::Revision(wanted), Some(found)) = (&change.expect, found)
                    && self.shown(found.clone()).revision == *wanted
                {
                    change.expect = Expect::Revision(found.revision);
                }
            }
            _ => {}
        }
        Ok(change)
    }
}

#[async_trait]
impl Records for BrokenRecords {
    fn capabilities(&self) -> Capabilities {
        Records::capabilities(&self.store)
    }

    async fn load(&self, table: Table, key: &str) -> Result<Option<Record>> {
        let folded = key.to_ascii_lowercase();
        let key = match self.fault {
            Fault::FoldsCase => &folded,
            _ => key,
        };
        let found = self.store.load(self.table(table), key).await?;
        Ok(found.map(|record| self.shown(record)))
    }

    async fn commit(&self, batch: &Batch) -> Result<()> {
        let mut whole = Batch::new();
        let mut changes: Vec<&Change> = batch.changes().iter().collect();
        if self.fault == Fault::AppliesBackwards {
            changes.reverse();
        }
        for (number, change) in changes.into_iter().enumerate() {
            let mut change = self.changed(change.clone()).await?;
            if self.fault == Fault::LooksAtTheFirst && number >= MANY {
                change.expect = Expect::Any;
            }
            if self.fault == Fault::AppliesHalfABatch {
                let mut single = Batch::new();
                single.extend([change]);
                self.store.commit(&single).await?;
            } else {
                whole.extend([change]);
            }
        }
        self.store.commit(&whole).await
    }

    async fn scan(
        &self,
        table: Table,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<Record>> {
        if self.fault == Fault::ForgetsLeases && table == Table::Leases {
            return Ok(Vec::new());
        }
        let table = self.table(table);
        let page = match self.fault {
            Fault::ReadsPrefixesAsPatterns => {
                let mut page = self.store.scan(table, "", after, usize::MAX).await?;
                page.retain(|record| is_like(&record.key, prefix));
                page.truncate(limit);
                page
            }
            Fault::PagesWithoutLimit => self.store.scan(table, prefix, after, usize::MAX).await?,
            _ => self.store.scan(table, prefix, after, limit).await?,
        };
        Ok(page.into_iter().map(|record| self.shown(record)).collect())
    }
}

/// Returns whether a key matches a prefix as SQL's LIKE does, with the underscore as a wildcard.
fn is_like(key: &str, prefix: &str) -> bool {
    let mut key = key.chars();
    prefix.chars().all(|wanted| match key.next() {
        Some(found) => wanted == '_' || wanted == found,
        None => false,
    })
}
