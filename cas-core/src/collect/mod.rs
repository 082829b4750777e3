//! Collection: what no name, lease or label holds is removed, while everybody else works on.
//!
//! A compare-and-swap on one record is all that it needs, so it is as safe on an object store
//! that many machines share as in one process; `tests/protocol` of this crate searches the
//! interleavings. Two sides keep to it:
//!
//! - Whoever makes a root or a reference does it under a lease ([`Guard`]): it touches what it
//!   counts on, blob by blob ([`Wanted`]), then writes edges, then names, then ends the lease.
//! - A collection notes the revision of every record, then reads leases, then names, then what
//!   refers to what, and marks. What is not marked becomes a tombstone, where its record is still as
//!   noted. A tombstone is final: it names the version of the bytes that go, and whoever wants the
//!   blob after all stores them as another.
//!
//! Bytes without a record are not touched: whoever is about to write one may have just stored
//! them.

mod dead;
mod graph;
mod guard;
pub(crate) mod hold;
mod keep;
mod keeper;
mod labels;
mod name;
mod revive;
mod survey;
mod sweep;
mod tree;
mod why;

use std::collections::BTreeSet;
use std::time::SystemTime;

pub use graph::Reason;
pub use guard::{Guard, JOB};
pub use hold::Wanted;
pub use keep::keep;
pub(crate) use labels::content as referenced;
pub use labels::{FLAT, LEASE};
pub use why::{Path, Why, why};

use self::dead::Dead;
use self::survey::survey;
use crate::digest::Digest;
use crate::error::Result;
use crate::pool;
use crate::records::Resource;
use crate::snapshot::Snapshotter;
use crate::store::Store;

/// How to collect.
#[derive(Clone, Debug)]
pub struct Options {
    /// The time that leases are held against; tests set the clock by it.
    pub now: SystemTime,
    /// Remove nothing, and tell what would go.
    pub dry_run: bool,
    /// Remove no other blobs than these, and nothing else.
    pub only: Option<BTreeSet<Digest>>,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            now: SystemTime::now(),
            dry_run: false,
            only: None,
        }
    }
}

/// What was removed, or would be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Collected {
    /// Blobs and the bytes they took.
    pub blobs: Vec<(Digest, u64)>,
    /// Snapshots, leaves first.
    pub snapshots: Vec<Resource>,
    /// Keys of ingests, and the bytes they took.
    pub ingests: Vec<(String, u64)>,
    /// Names of images that had expired.
    pub images: Vec<String>,
}

impl Collected {
    /// Bytes of blobs and ingests together.
    pub fn bytes(&self) -> u64 {
        let blobs = self.blobs.iter().map(|(_, size)| size);
        blobs.chain(self.ingests.iter().map(|(_, size)| size)).sum()
    }

    /// Whether there was nothing to remove.
    pub fn is_empty(&self) -> bool {
        *self == Collected::default()
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
    options: &Options,
) -> Result<Collected> {
    let found = survey(store, snapshotters, options.now, options.dry_run).await?;
    let names: Vec<&str> = snapshotters.iter().map(|one| one.name()).collect();
    let mut dead = pool::run(move || Ok(Dead::of(found, &names))).await?;
    if let Some(only) = &options.only {
        dead.limit(only);
    }
    match options.dry_run {
        true => dead.tell(store, snapshotters).await,
        false => dead.remove(store, snapshotters).await,
    }
}
