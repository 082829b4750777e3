//! Records in an SQLite database. `backend-fs` keeps its records in such a database. A root, the
//! directory in which `cas` keeps a store and snapshots, has another such database for the records
//! of its snapshots.
//!
//! ```text
//! NAME             the database; NAME-wal and NAME-shm next to it are SQLite's
//! NAME.lock        locked while a process opens the database for writing, or sets it aside
//! NAME.damaged-1   a damaged database that a repair has set aside
//! reserve          space for opening the database and removing records on a full disk
//! ```
//!
//! Any number of processes may use one database concurrently.

mod commit;
mod connection;
mod error;
mod examine;
mod places;
mod records;

pub use connection::{VERSION, stored_version};
pub use examine::examine;
pub use records::SqliteRecords;
