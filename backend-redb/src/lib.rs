//! A store in one file of redb, in a directory of its own:
//!
//! ```text
//! cas.redb          everything; these tables:
//!   cas             its format, and the first number that was never given
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
//! A number is given once, to the rows of one storing of a blob, of which it is the version, and
//! to each state of a record, of which it is the revision.
//!
//! One process at a time may open it.

mod body;
mod content;
mod disk;
mod engine;
mod error;
mod group;
mod ingest;
mod lease;
mod place;
mod reader;
mod records;
mod rows;
mod space;
mod store;
mod tables;

pub use store::{GAPS, RedbOpener, RedbStore};
