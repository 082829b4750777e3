//! A store in one SQLite file. The directory of the store contains:
//!
//! ```text
//! cas.sqlite   these tables:
//!   blobs      digest -> size, id
//!   ingests    key -> id, bytes so far, time
//!   pieces     id, offset -> up to 256 KiB of a blob or an ingest
//!   records    kind, key -> value, revision
//!   numbers    the last number that was used as an id or a revision
//! owner        locked by the process that has the store open
//! ```
//!
//! When an ingest is published, its id becomes the id of the blob, so no bytes are copied. The same
//! transaction writes the records that are published with the blob. Each number is used only once:
//! as the id of an ingest and of the blob that it becomes, or as a revision of a record.

mod content;
mod engine;
mod error;
mod ingest;
mod records;
mod snapshots;
mod store;

use cas_core::{Capabilities, Capability};

pub use snapshots::{Copies, CopiesOpener};
pub use store::{GAPS, SqliteOpener, SqliteStore};

/// The capabilities of this store.
pub(crate) const CAPABILITIES: Capabilities = Capabilities::of(&[
    Capability::Durable,
    Capability::Resume,
    Capability::Atomic,
    Capability::Joint,
]);
