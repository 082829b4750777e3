//! A store in one RocksDB database. The directory of the store contains:
//!
//! ```text
//! db                the database, with these column families; numbers have eight bytes, big-endian
//!                   in keys and little-endian in values:
//!   default         text -> number: the format of the store, the next free number for rows and
//!                   revisions, and how many bytes were removed since the last compaction; also the
//!                   notes: notes/key -> revision, value
//!   content         algorithm and hash of a blob -> its size, its row number, one byte for where
//!                   its bytes are, and all of its bytes if there are at most 512
//!   rows            row number, offset -> up to 64 KiB of a blob or an ingest
//!   ingests         key -> row number, time
//!   blobs images snapshots leases          records: key -> revision, value
//! db.head           a copy of RocksDB's manifest (its list of files), made when the database was
//!                   last closed after it was open for writing
//! db.repair         files of a damaged database, while a repair reads them
//! owner             locked by the process that has the store open; contains its pid
//! reserve           disk space for removals on a full disk
//! reserve.N         inodes for removals on a disk that has no other free inode
//! ```
//!
//! All rows of one blob or ingest have the same row number. The crate `cas-kv` implements the store
//! over these column families.
//!
//! Only one process at a time can have the store open for writing. Processes that cannot write to
//! the directory open the store read-only. Several such processes can have it open at the same
//! time.
//!
//! A blob of less than 1 MiB is written to the log in one write, together with its entry in
//! `content` and its record in `blobs`. The rows of any other blob bypass the log, except the rows
//! of the blob's last bytes (less than 1 MiB). The rows that bypass the log are written once, to
//! RocksDB's blob files, and are durable before the entry of the blob is written to the log.

mod checksums;
mod compaction;
mod damaged;
mod database;
mod engine;
mod error;
mod family;
mod head;
mod options;
mod side;
mod store;
mod tables;
mod unsynced;
mod view;

pub use options::Tuning;
pub use store::{GAPS, RocksOpener, RocksStore};
