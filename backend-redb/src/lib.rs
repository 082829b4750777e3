//! A store in one redb file. The directory of the store contains:
//!
//! ```text
//! cas.redb          the database, with these tables:
//!   cas             name -> number: the format of the store, the next free number for rows and
//!                   revisions, and the number of bytes removed since the last compaction
//!   content         algorithm and hash of a blob -> size, row number, and all bytes if there are
//!                   at most 512
//!   rows            row number, offset -> up to 256 KiB less 512 bytes of a blob or ingest
//!   ingests         key -> row number, bytes in its rows, time
//!   doomed          row number of rows that are still to be removed -> bytes in their blob
//!   blobs images snapshots leases notes    records: key -> revision, value
//! cas.redb.head     a copy of the start of the database, made when a process that could write to
//!                   the database last closed it
//! owner             locked by the process that has the store open; contains its pid
//! reserve           takes up space; deleted on a full disk, so that removals have space to work
//! ```
//!
//! All rows of one blob or ingest have the same row number. The crate `cas-kv` implements the store
//! over these tables.
//!
//! A process that cannot write to the directory opens the store read-only. Any number of such
//! processes can have the store open at the same time. While a process that can write to the
//! directory has the store open, no other process can open it.

mod disk;
mod engine;
mod error;
mod file;
mod head;
mod overlay;
mod rows;
mod store;
mod tables;
mod view;

pub use store::{GAPS, RedbOpener, RedbStore};
