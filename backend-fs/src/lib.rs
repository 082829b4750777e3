//! A store of files, whose directory is an OCI image layout that skopeo, umoci and podman read:
//!
//! ```text
//! oci-layout          {"imageLayoutVersion":"1.0.0"}
//! index.json          names -> descriptors; this file alone says what a name stands for
//! blobs/sha256/HEX    blobs, never written again
//! .cas/               ours, 0700
//!   format.json       kind and version of the store
//!   records.db        records of blobs and of images, in SQLite
//!   ingest/           bytes on their way in, under their keys
//!   lock index.lock   held while the layout is made, and while index.json is replaced
//!   remove.lock       held while the name of a blob is taken away or given to other bytes
//!   boot unsynced/    what tells, after a power loss, which bytes to doubt
//! ```
//!
//! Any number of processes may use it at once.

mod blobs;
mod content;
mod images;
mod index;
mod ingest;
mod layout;
mod listing;
mod names;
mod publish;
mod reader;
mod recover;
mod shared;
mod store;

pub use store::{FsOpener, FsStore, GAPS};
