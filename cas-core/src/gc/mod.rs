//! Garbage collection: removes what no name, lease or label keeps, while other jobs use the store.
//!
//! Jobs and collections follow one protocol. The module [`lease`](crate::lease) describes the steps
//! of a job. A collection follows these steps:
//!
//! 1. It reads the revision of every blob record and the list of snapshots.
//! 2. Then it reads the leases, and then the gc roots that the image store lists: images, and
//!    content without a name.
//! 3. Then it reads the references in the records, or in a document whose record does not list
//!    them, and marks everything that leases, images, content without a name, labels, claims of
//!    owners and young content reach. Young content was stored without a lease less than a day ago.
//! 4. It writes a tombstone into the record of each blob that is not marked, by a compare-and-swap
//!    on the revision of step 1.
//! 5. It removes the bytes that the tombstone names, and then the record.
//!
//! If a job pins a blob after step 1, the record of the blob has another revision in step 4, and
//! the blob stays. If a job pins a blob before step 1, step 2 finds the lease of the job, unless
//! the job has ended its lease by then. In this case, step 2 finds the name that the job wrote, or
//! step 3 finds the reference that the job wrote. `scan.rs` has the details.
//!
//! A tombstone is final. It names the version of the bytes that are removed. A job that needs the
//! blob again stores it as another version. If the store can remove the bytes and the record of a
//! blob in one transaction, steps 4 and 5 are one step. If a collection is interrupted, the next
//! collection completes it.
//!
//! The protocol requires nothing but a compare-and-swap on single records. So it is as safe on an
//! object store that many machines share as in one process. `tests/protocol` of this crate searches
//! the interleavings of jobs and collections.
//!
//! A collection for an [owner](crate::owner) marks twice. The first pass marks what these reach:
//! the owner's names, all leases, all labels, and young content. The second pass marks everything
//! that any gc root reaches, except what only the owner's claims reach. Then the collection drops
//! the owner's claims on the blobs that the first pass has not marked. It removes the blobs that
//! neither pass has marked and that only the owner claimed. Dropping a claim and removing a blob
//! are both compare-and-swaps on the revision of step 1.
//!
//! [`prune`] removes the names of the least recently used images, and then collects.
//!
//! [`remove`] removes the blobs that a user names, by the same steps. Unless the removal is forced,
//! it fails if one of these blobs is in use. The documentation of [`remove`] states when a blob is
//! in use.
//!
//! A collection does not remove bytes that have no record. Another program may have stored the
//! bytes, or a job whose lease has expired may be about to write the record again.
//!
//! If a snapshotter has the only copy of a layer of an image that stays, the collection keeps this
//! copy even if records of snapshots were lost: `only_copies.rs`.

mod explain;
mod graph;
mod labels;
mod lost;
mod only_copies;
mod owned;
mod prune;
mod removed;
mod request;
mod scan;
mod sweep;
mod unreachable;

use std::collections::BTreeSet;
use std::time::SystemTime;

pub use explain::{Explanation, RootPath, explain};
pub use graph::Reason;
pub(crate) use labels::{back_references, check_meaning, referenced_content};
pub use prune::{PruneOptions, Pruned, PrunedImage, prune};
pub use removed::{Leftover, Removed};
pub use request::{RemoveOptions, remove};
pub use unreachable::leftovers;
pub(crate) use unreachable::leftovers_of_content;

pub(crate) use self::lost::unattributed;
pub(crate) use self::only_copies::{StrayTars, committed, keep_stray_tars, layers_of};
pub(crate) use self::scan::live_leases;
use self::scan::scan;
use self::unreachable::Unreachable;
use crate::complete::correct_indexes;
use crate::digest::Digest;
use crate::error::Result;
use crate::owner::Owner;
use crate::pool;
use crate::snapshot::Snapshotter;
use crate::store::Store;

/// Options of [`collect`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct GcOptions {
    /// The current time, against which expiry is checked. Tests set it.
    pub now: SystemTime,
    /// Whether to report what would be removed, and remove nothing.
    pub dry_run: bool,
    /// If given, the collection removes only blobs of this set, the claims of the owner on them,
    /// and expired leases. Such a collection does not complete interrupted collections.
    pub only: Option<BTreeSet<Digest>>,
    /// The owner whose content is collected. The default is the owner that the store is opened for.
    /// A collection without an owner keeps every blob that any owner claims.
    pub owner: Option<Owner>,
}

impl Default for GcOptions {
    fn default() -> Self {
        GcOptions {
            now: SystemTime::now(),
            dry_run: false,
            only: None,
            owner: None,
        }
    }
}

impl GcOptions {
    /// Sets [`now`](Self::now).
    #[must_use]
    pub fn with_now(mut self, now: SystemTime) -> Self {
        self.now = now;
        self
    }

    /// Sets [`dry_run`](Self::dry_run).
    #[must_use]
    pub fn with_dry_run(mut self, dry_run: bool) -> Self {
        self.dry_run = dry_run;
        self
    }

    /// Sets [`only`](Self::only).
    #[must_use]
    pub fn with_only(mut self, only: impl Into<Option<BTreeSet<Digest>>>) -> Self {
        self.only = only.into();
        self
    }

    /// Sets [`owner`](Self::owner).
    #[must_use]
    pub fn with_owner(mut self, owner: impl Into<Option<Owner>>) -> Self {
        self.owner = owner.into();
        self
    }
}

/// Removes what no name, lease or label keeps, and completes interrupted collections. Content that
/// was stored without a lease less than a day ago stays. Blobs that an owner claims stay, too,
/// except in a collection for this owner. A collection for an owner removes only expired leases,
/// expired names of the owner, claims of the owner, and blobs that only this owner claims. Returns
/// what was removed, or for a dry run what would be removed. Any number of collections may run
/// concurrently, in any number of processes.
///
/// Another program may have stored content that is stated to be a document, but is not a valid one,
/// or is too large to be read. Such content keeps nothing, and is reported as a warning.
///
/// # Errors
/// `Corrupt` if a record or a document is damaged; for an owner, `Denied` if the store is opened
/// for another owner, and `Unsupported` if the image store does not keep owners; errors of the
/// stores. If a record or a document is damaged, its references are unknown, so nothing but expired
/// leases is removed.
pub async fn collect(
    store: &Store,
    snapshotters: &[&dyn Snapshotter],
    options: &GcOptions,
) -> Result<Removed> {
    let store = &match &options.owner {
        Some(owner) => store.for_owner(owner)?,
        None => store.clone(),
    };
    if !options.dry_run && options.only.is_none() {
        correct_indexes(store).await?;
    }
    let (now, read_only, owner) = (options.now, options.dry_run, store.owner().cloned());
    let found = scan(store, snapshotters, now, read_only, owner.as_ref()).await?;
    let names: Vec<&str> = snapshotters.iter().map(|one| one.name()).collect();
    let select = move || match owner {
        Some(owner) => Unreachable::of_owner(found, &owner),
        None => Unreachable::of(found, &names, now),
    };
    let mut unreachable = pool::run(move || Ok(select())).await?;
    if let Some(only) = &options.only {
        unreachable.limit(only);
    }
    unreachable.spare_only_copies(store, snapshotters).await?;
    if options.dry_run {
        return unreachable.preview(store, snapshotters).await;
    }
    unreachable.remove(store, snapshotters).await
}
