//! Records in an SQLite database: those of the store of files, and the local records of every root.
//!
//! ```text
//! NAME         the database; NAME-wal and NAME-shm next to it are SQLite's
//! NAME.lock    held while the database is opened
//! reserve      space that is given up on a full disk, so that records can still be removed
//! ```
//!
//! Any number of processes may use one database at once.

mod commit;
mod records;
mod reserve;

pub use records::SqliteRecords;
