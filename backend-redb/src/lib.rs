//! A store in one file of redb, in a directory of its own:
//!
//! ```text
//! cas.redb          everything; these tables:
//!   cas             text -> number: its format, and the first number that was never given
//!   content         algorithm and hash of a blob -> its size, its number, up to 512 bytes of it
//!                   where that is all
//!   rows            number, offset -> up to 256 KiB less 512 bytes of a blob or an ingest
//!   ingests         key -> number, bytes in rows, time
//!   doomed          numbers whose rows are still to be removed
//!   blobs images snapshots leases          records: key -> revision, value
//! owner             locked by the process that has the store open; its pid
//! reserve           space that a removal on a full disk may use
//! ```
//!
//! What stands on these tables is in `cas-kv`. One process at a time may open it.

mod disk;
mod engine;
mod error;
mod file;
mod rows;
mod store;
mod tables;
mod view;

pub use store::{GAPS, RedbOpener, RedbStore};
