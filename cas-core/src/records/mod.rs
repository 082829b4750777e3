//! Records: the one small transactional table that a store keeps beside its bytes.

pub(crate) mod blob;
mod each;
mod leases;
mod lifetime;
mod retry;
mod snapshots;

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;

pub use blob::{BlobRecord, Blobs, Tombstone};
pub(crate) use each::each;
pub use leases::{Lease, Leases, Resource};
pub use lifetime::{CLOCK_SKEW, LEASE_TTL, UNLEASED_TTL};
pub(crate) use retry::{ATTEMPTS, retry};
pub use snapshots::{New, SnapshotRecord, Snapshots};

use crate::capability::Capabilities;
use crate::error::{Error, Result};

/// Which kind of thing a record is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Table {
    /// Blobs, by digest.
    Blobs,
    /// Images, by name.
    Images,
    /// Snapshots, by snapshotter and key.
    Snapshots,
    /// Leases, by id.
    Leases,
}

impl Table {
    /// All of them.
    pub const ALL: [Table; 4] = [Table::Blobs, Table::Images, Table::Snapshots, Table::Leases];

    /// The name, as engines store it.
    pub const fn name(self) -> &'static str {
        match self {
            Table::Blobs => "blobs",
            Table::Images => "images",
            Table::Snapshots => "snapshots",
            Table::Leases => "leases",
        }
    }
}

/// Which state of a record was seen; made by the store, compared by nobody else.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Revision(Arc<str>);

impl Revision {
    /// A revision from the store's own text; it never repeats for one key.
    pub fn new(text: impl Into<Arc<str>>) -> Self {
        Revision(text.into())
    }

    /// The store's own text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A value under its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// The key, unique in its table.
    pub key: String,
    /// What it holds.
    pub value: Bytes,
    /// Which state of it this is.
    pub revision: Revision,
}

/// What a change wants to find before it is made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expect {
    /// Whatever is there.
    Any,
    /// Nothing.
    Absent,
    /// This state and no other.
    Revision(Revision),
}

/// One compare-and-swap.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Table of the record.
    pub table: Table,
    /// Key of the record.
    pub key: String,
    /// What must be there.
    pub expect: Expect,
    /// What is there afterwards; nothing deletes.
    pub value: Option<Bytes>,
}

/// Changes that belong together, applied in order.
///
/// Write blobs before edges before references: where the store is not `Atomic`, a crash leaves a
/// prefix.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Batch(Arc<Vec<Change>>);

impl Batch {
    /// No changes.
    pub fn new() -> Self {
        Batch::default()
    }

    /// Adds a write.
    pub fn put(&mut self, table: Table, key: impl Into<String>, expect: Expect, value: Bytes) {
        Arc::make_mut(&mut self.0).push(Change {
            table,
            key: key.into(),
            expect,
            value: Some(value),
        });
    }

    /// Adds a deletion; deleting what is absent under [`Expect::Any`] is no error.
    pub fn delete(&mut self, table: Table, key: impl Into<String>, expect: Expect) {
        Arc::make_mut(&mut self.0).push(Change {
            table,
            key: key.into(),
            expect,
            value: None,
        });
    }

    /// The changes in order.
    pub fn changes(&self) -> &[Change] {
        &self.0
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Extend<Change> for Batch {
    fn extend<I: IntoIterator<Item = Change>>(&mut self, changes: I) {
        Arc::make_mut(&mut self.0).extend(changes);
    }
}

/// A store of records with single-key compare-and-swap.
///
/// `load` and one page of `scan` are quick and run where they are called.
#[async_trait]
pub trait Records: Send + Sync + 'static {
    /// What it promises beyond the least: `Atomic`, `Durable`, `Shared`.
    fn capabilities(&self) -> Capabilities;

    /// The record, or nothing.
    async fn load(&self, table: Table, key: &str) -> Result<Option<Record>>;

    /// Applies the changes in order and makes them durable.
    ///
    /// # Errors
    /// `Conflict`, naming the key, when a record is not as its change expects; nothing of the
    /// batch is then applied where the store is `Atomic`, and the changes before it elsewhere.
    async fn commit(&self, batch: &Batch) -> Result<()>;

    /// At most `limit` records whose keys begin with `prefix`, in byte order, those after `after`
    /// only. A page shorter than `limit` is the last.
    ///
    /// Pages are no snapshot: a record that changes meanwhile may show either state, one that
    /// stays is seen once.
    async fn scan(
        &self,
        table: Table,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<Record>>;
}

/// The conflict that every store reports in the same words.
pub fn conflict(change: &Change) -> Error {
    let found = match change.expect {
        Expect::Absent => "it exists already",
        _ => "it was changed or removed meanwhile",
    };
    Error::conflict(format!("{found}; load it again and retry"))
        .operation("commit record")
        .subject(format!("{}/{}", change.table.name(), change.key))
}
