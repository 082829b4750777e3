//! Collection: what no name, lease or label holds is removed, while everybody else works on.
//!
//! A compare-and-swap on one record is all that it needs, so it is as safe on an object store
//! that many machines share as in one process; `tests/protocol` of this crate searches the
//! interleavings. Two sides keep to it:
//!
//! - Whoever makes a root or a reference does it under a lease ([`LeaseGuard`]): it touches what it
//!   counts on, blob by blob ([`BlobRef`]), then writes edges, then names, then ends the lease.
//! - A collection notes the revision of every record, then reads leases, then names, then what
//!   refers to what, and marks. What is not marked becomes a tombstone, where its record is still as
//!   noted. A tombstone is final: it names the version of the bytes that go, and whoever wants the
//!   blob after all stores them as another.
//!
//! Bytes without a record are not touched: whoever is about to write one may have just stored
//! them.

mod explain;
mod graph;
mod labels;
mod removed;
mod scan;
mod sweep;
mod unreachable;

use std::collections::BTreeSet;
use std::time::SystemTime;

pub use explain::{Explanation, RootPath, explain};
pub use graph::Reason;
pub(crate) use labels::referenced_content;
pub use removed::Removed;

use self::scan::scan;
use self::unreachable::Unreachable;
use crate::digest::Digest;
use crate::error::Result;
use crate::pool;
use crate::snapshot::Snapshotter;
use crate::store::Store;

/// How to collect.
#[derive(Clone, Debug)]
pub struct GcOptions {
    /// The time that leases are held against; tests set the clock by it.
    pub now: SystemTime,
    /// Remove nothing, and tell what would go.
    pub dry_run: bool,
    /// Remove no other blobs than these, and nothing else.
    pub only: Option<BTreeSet<Digest>>,
}

impl Default for GcOptions {
    fn default() -> Self {
        GcOptions {
            now: SystemTime::now(),
            dry_run: false,
            only: None,
        }
    }
}

/// Removes what nothing holds, and finishes what an earlier collection left undone. Any number may
/// run at once, here and elsewhere.
///
/// # Errors
/// `Corrupt` for a record or a document that does not parse: what it refers to is not known, so
/// that nothing is removed; those of the stores.
pub async fn collect(
    store: &Store,
    snapshotters: &[&dyn Snapshotter],
    options: &GcOptions,
) -> Result<Removed> {
    let found = scan(store, snapshotters, options.now, options.dry_run).await?;
    let names: Vec<&str> = snapshotters.iter().map(|one| one.name()).collect();
    let mut unreachable = pool::run(move || Ok(Unreachable::of(found, &names))).await?;
    if let Some(only) = &options.only {
        unreachable.limit(only);
    }
    match options.dry_run {
        true => unreachable.preview(store, snapshotters).await,
        false => unreachable.remove(store, snapshotters).await,
    }
}
