//! A store in one redb file. Directory of the store:
//!
//! ```text
//! cas.redb          the database, with these tables:
//!   cas             name -> number: the format of the store, and the next free number of rows
//!   content         algorithm and hash of a blob -> size, number of its rows, and all bytes if there
//!                   are at most 512
//!   rows            number of rows, offset -> up to 256 KiB less 512 bytes of a blob or ingest
//!   ingests         key -> number of its rows, bytes in them, time
//!   doomed          number of rows that are still to be removed -> bytes in them
//!   blobs images snapshots leases notes    records: key -> revision, value
//! owner             locked by the process that has the store open; contains its pid
//! reserve           disk space for removals on a full disk
//! ```
//!
//! The store over these tables is the crate `cas-kv`. One process at a time may open it.

mod disk;
mod engine;
mod error;
mod file;
mod overlay;
mod rows;
mod store;
mod tables;
mod view;

pub use store::{GAPS, RedbOpener, RedbStore};
