//! An `fs` store. Its directory is an OCI image layout, which skopeo, umoci and podman can read:
//!
//! ```text
//! oci-layout          {"imageLayoutVersion":"1.0.0"}
//! index.json          the targets of all names, as descriptors
//! blobs/sha256/HEX    blobs, immutable
//! .cas/               private to this crate, 0700
//!   format.json       kind and version of the store
//!   records.db        all records of the store, in SQLite
//!   ingest/           the bytes of ingests, by key
//!   lock              held while an opening for writing creates, upgrades or recovers the store,
//!                     and while oci-layout or format.json is repaired
//!   index.lock        held while index.json is created, replaced or repaired
//!   remove.lock       held while a blob is removed or replaced
//!   boot              the ID of the boot in which the store was last opened for writing
//!   unsynced/         markers of the processes that have published without a sync; if a marker is
//!                     left after a boot, the first opening for writing checks all blobs
//!   reserve           takes up space; on a full disk, a removal deletes it to have space to work
//! ```
//!
//! Any number of processes may use the store concurrently.

mod blob_name;
mod blobs;
mod content;
mod entry;
mod examine;
mod facts;
mod file;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
mod images;
mod index;
mod index_file;
mod ingest;
mod layout;
mod link;
mod listing;
mod pending;
mod places;
mod publish;
mod reader;
mod recover;
mod refs;
mod shared;
mod staging;
mod store;
mod time;
mod unsynced;
mod validate;

pub use store::{FsOpener, FsStore, GAPS};
pub use validate::validate;
