//! A store over an embedded key-value engine such as redb or RocksDB.
//!
//! An [`Engine`] provides tables and transactions. This crate stores blobs, records and image names
//! in these tables, in the same way over every engine. Each engine encodes the tables in its own
//! way. The tables are:
//!
//! ```text
//! meta              text -> integer: the version of the format, the first number (see below) that
//!                   is not reserved, and how many bytes were removed since the last compaction
//! content           digest -> size, number, and all bytes of a small blob
//! rows              number, offset -> a piece of a blob or an ingest
//! ingests           key -> number, bytes in rows, time
//! blobs images snapshots leases notes    records: key -> revision, value
//! ```
//!
//! No number is allocated twice. A number is the revision of one state of a record, or identifies
//! the rows of one ingest or blob. A blob that is made from an ingest with rows keeps the number of
//! the ingest. The number of a blob is also its version. The table `notes` contains notes
//! by which image names are found from their targets. An upgrade or a repair that writes such a
//! note allocates no number: the note gets the revision that the image name has in the table
//! `images`.
//!
//! The store is in an [`OwnedDir`]. While a process that can write to the directory has the store
//! open, no other process can open the store. Several processes that cannot write to the directory
//! can have the store open at the same time, and can only read it.

mod batch;
mod body;
mod content;
mod engine;
mod group;
mod head;
mod ingest;
mod ingest_lock;
mod job;
mod key;
mod kv;
mod owned_dir;
mod places;
mod reader;
mod rebuild;
mod records;
mod space;
mod store;
mod tx;

use cas_core::{Capabilities, Capability};

pub use engine::{BlobEntry, Engine, Failed, IngestEntry, Rows, Transaction, View};
pub use head::{Head, side_dir};
pub use key::Key;
pub use owned_dir::{FileNames, OwnedDir};
pub use places::{check_places, examine_places};
pub use space::{Reserve, Reuse, Space};
pub use store::{KvStore, OpenMode};

/// The capabilities of every store over an [`Engine`].
pub const CAPABILITIES: Capabilities = Capabilities::of(&[
    Capability::Durable,
    Capability::Resume,
    Capability::Atomic,
    Capability::Joint,
]);
