//! Records: the small transactional tables that a store keeps next to its content.
//!
//! A [`Store`](crate::Store) has exactly one records store, which implements [`Records`]. A
//! [`Batch`] holds changes of records. A content store that is also the records store commits the
//! batch together with the bytes that it publishes or removes. For any other content store, the
//! batch is committed separately: before bytes are published, and after bytes are removed.
//!
//! A [composition](crate::compose) is a store made of other stores, its members. One member
//! provides the records store. The composition can commit the batch together with published bytes
//! only if this member stores the bytes.

pub(crate) mod blob;
pub(crate) mod codec;
mod each;
mod leases;
mod lifetime;
mod notes;
mod packing;
mod retry;
mod snapshots;

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;

pub use blob::{BlobRecord, Blobs, Tombstone};
pub(crate) use each::each;
pub use leases::{Lease, LeaseList, Leases, Resource};
pub use lifetime::{CLOCK_SKEW, LEASE_TTL, UNLEASED_TTL};
pub use notes::Notes;
pub use packing::Packing;
pub(crate) use retry::ATTEMPTS;
pub use retry::retry;
pub use snapshots::{New, SnapshotContent, SnapshotRecord, Snapshots};

use crate::capability::Capabilities;
use crate::error::{Error, Result};

/// A table of records. Each kind of record has its own table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Table {
    /// Blobs, by digest.
    Blobs,
    /// Images, by name.
    Images,
    /// Snapshots, by snapshotter and key, and the next free id of each snapshotter.
    Snapshots,
    /// Leases, by id.
    Leases,
    /// Notes, by room and key. A room is a namespace; see [`Notes`].
    Notes,
}

impl Table {
    /// Every table.
    pub const ALL: [Table; 5] = [
        Table::Blobs,
        Table::Images,
        Table::Snapshots,
        Table::Leases,
        Table::Notes,
    ];

    /// Returns the name under which stores keep the table.
    pub const fn name(self) -> &'static str {
        match self {
            Table::Blobs => "blobs",
            Table::Images => "images",
            Table::Snapshots => "snapshots",
            Table::Leases => "leases",
            Table::Notes => "notes",
        }
    }
}

/// Identifies one state of a record. The store makes the revision, and only the store may interpret
/// it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Revision(Arc<str>);

impl Revision {
    /// Returns the revision that a store writes as `text`. A store never uses the same text twice
    /// for one key.
    pub fn new(text: impl Into<Arc<str>>) -> Self {
        Revision(text.into())
    }

    /// Returns the text that the store wrote.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A value under its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// The key, unique in its table.
    pub key: String,
    /// The value.
    pub value: Bytes,
    /// The revision of this state.
    pub revision: Revision,
}

/// A condition of a change: the state in which the record must be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expect {
    /// Any state, or no record.
    Any,
    /// No record.
    Absent,
    /// The state with this revision.
    Revision(Revision),
}

/// One compare-and-swap.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Table of the record.
    pub table: Table,
    /// Key of the record.
    pub key: String,
    /// The state that the record must have.
    pub expect: Expect,
    /// The new value. `None` deletes the record.
    pub value: Option<Bytes>,
}

/// Changes that are applied in order.
///
/// Put a record before the records that refer to it, and put images last. If the store is not
/// [`Atomic`](crate::Capability::Atomic), a crash may interrupt the batch after any change.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Batch {
    changes: Arc<Vec<Change>>,
    reclaims: bool,
}

impl Batch {
    /// Returns a batch without changes.
    pub fn new() -> Self {
        Batch::default()
    }

    /// Adds a write.
    pub fn put(&mut self, table: Table, key: impl Into<String>, expect: Expect, value: Bytes) {
        Arc::make_mut(&mut self.changes).push(Change {
            table,
            key: key.into(),
            expect,
            value: Some(value),
        });
    }

    /// Adds a deletion. With [`Expect::Any`] the record may be absent.
    pub fn delete(&mut self, table: Table, key: impl Into<String>, expect: Expect) {
        Arc::make_mut(&mut self.changes).push(Change {
            table,
            key: key.into(),
            expect,
            value: None,
        });
    }

    /// Marks the batch as one that frees space, now or later. A caller marks a batch that writes a
    /// [`Tombstone`], because the bytes of the blob are removed afterwards.
    pub fn set_reclaims(&mut self) {
        self.reclaims = true;
    }

    /// Returns whether the batch deletes a record, or is marked as freeing space. On a full disk,
    /// such a batch may use the space that a store has reserved.
    pub fn reclaims(&self) -> bool {
        let deletes = |change: &Change| change.value.is_none();
        self.reclaims || self.changes.iter().any(deletes)
    }

    /// Returns the changes in order.
    pub fn changes(&self) -> &[Change] {
        &self.changes
    }

    /// Returns whether the batch has no changes.
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }
}

impl Extend<Change> for Batch {
    fn extend<I: IntoIterator<Item = Change>>(&mut self, changes: I) {
        Arc::make_mut(&mut self.changes).extend(changes);
    }
}

/// A store of records with single-key compare-and-swap.
///
/// In a local store, `load` and one page of `scan` are quick and run on the caller's thread. If the
/// store is reached over a network, these calls take as long as their network requests. Every
/// asynchronous method may return errors of the backend, besides the errors that its documentation
/// lists.
#[async_trait]
pub trait Records: Send + Sync + 'static {
    /// Returns the capabilities of the store. Only `Atomic`, `Durable` and `Shared` apply to
    /// records.
    fn capabilities(&self) -> Capabilities;

    /// Returns the record, or `None` if there is none.
    async fn load(&self, table: Table, key: &str) -> Result<Option<Record>>;

    /// Applies the changes in order, and makes them durable if the store is
    /// [`Durable`](crate::Capability::Durable).
    ///
    /// # Errors
    /// `Conflict`, naming the key, if a record is not in the expected state. After a conflict, an
    /// `Atomic` store has applied nothing of the batch. Any other store has applied the changes
    /// before the change that failed.
    async fn commit(&self, batch: &Batch) -> Result<()>;

    /// Returns at most `limit` records whose keys begin with `prefix`, in the byte order of their
    /// keys, starting after the key `after`, or at the first record if `after` is `None`. A page
    /// with fewer than `limit` records is the last.
    ///
    /// Pages are not a consistent snapshot. A record that is changed between two calls may appear
    /// in either state. An unchanged record appears once.
    async fn scan(
        &self,
        table: Table,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<Record>>;
}

/// Returns the `Conflict` error for a change whose record is not in the expected state. Every store
/// returns this error from [`Records::commit`].
pub fn conflict(change: &Change) -> Error {
    let found = match change.expect {
        Expect::Absent => "the record already exists",
        _ => "the record was changed or removed meanwhile",
    };
    Error::conflict(format!("{found}; load it again and retry"))
        .operation("commit record")
        .subject(format!("{}/{}", change.table.name(), change.key))
}
