//! A store in one database of RocksDB, in a directory of its own:
//!
//! ```text
//! db                the database; these column families, numbers big-endian in keys, little-endian
//!                   in values, of eight bytes each:
//!   default         text -> number: its format, and the first number that was never given
//!   content         algorithm and hash of a blob -> its size, its number, where its bytes are
//!                   (one byte), up to 512 bytes of it where that is all
//!   rows            number, offset -> up to 64 KiB of a blob or an ingest, in blob files
//!   ingests         key -> number, time
//!   blobs images snapshots leases          records: key -> revision, value
//! owner             locked by the process that has the store open; its pid
//! reserve           space that a removal on a full disk may use
//! ```
//!
//! What stands on these tables is in `cas-kv`. One process at a time may open it.
//!
//! A small blob goes through the log with its records, in one synced write. Rows of a larger one do
//! not: they are written to blob files once, and are on the disk before the entry of the blob goes
//! into the log.

mod compaction;
mod database;
mod engine;
mod error;
mod family;
mod options;
mod store;
mod tables;
mod view;

pub use options::Tuning;
pub use store::{GAPS, RocksOpener, RocksStore};
