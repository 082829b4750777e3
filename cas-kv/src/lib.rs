//! A store over an embedded key-value engine: what redb, RocksDB and their like have in common.
//!
//! An [`Engine`] brings tables and transactions; bytes, records and names on top of them are here.
//! These are the tables, whatever their encoding:
//!
//! ```text
//! meta              text -> number: the format, and the first number that was never given
//! content           digest -> size, number, all of the bytes where they are few
//! rows              number, offset -> a piece of a blob or an ingest
//! ingests           key -> number, bytes in rows, time
//! blobs images snapshots leases          records: key -> revision, value
//! ```
//!
//! A number is given once, to the rows of one storing of a blob, of which it is the version, and
//! to each state of a record, of which it is the revision.
//!
//! One process at a time may open a [`Place`], the directory of such a store.

mod batch;
mod body;
mod content;
mod engine;
mod group;
mod ingest;
mod job;
mod key;
mod kv;
mod lease;
mod place;
mod reader;
mod records;
mod space;
mod store;
mod tables;

use cas_core::{Capabilities, Capability};

pub use engine::{Engine, Failed, Found, Rows, Staged, Transaction, View};
pub use key::Key;
pub use place::{Names, Place};
pub use space::Space;
pub use store::KvStore;

/// What such a store promises.
pub const CAPABILITIES: Capabilities = Capabilities::of(&[
    Capability::Durable,
    Capability::Resume,
    Capability::Atomic,
    Capability::Joint,
]);
