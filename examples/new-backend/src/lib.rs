//! A store in one SQLite file, in a directory of its own:
//!
//! ```text
//! cas.sqlite   these tables:
//!   blobs      digest -> size, id
//!   ingests    key -> id, bytes so far, time
//!   pieces     id, offset -> up to 256 KiB of a blob or an ingest
//!   records    kind, key -> value, revision
//!   numbers    the last number that was given, to an id or a revision
//! owner        locked by the process that has the store open
//! ```
//!
//! A blob is an ingest whose id moved to its digest, so publishing copies nothing and goes in one
//! transaction with its records. No number comes twice.

mod content;
mod engine;
mod error;
mod ingest;
mod records;
mod store;

use cas_core::{Capabilities, Capability};

pub use store::{GAPS, SqliteOpener, SqliteStore};

/// What one file promises.
pub(crate) const CAPABILITIES: Capabilities = Capabilities::of(&[
    Capability::Durable,
    Capability::Resume,
    Capability::Atomic,
    Capability::Joint,
]);
