//! Removes blobs that a user names, by the same steps as a garbage collection.

use std::collections::BTreeSet;
use std::time::SystemTime;

use super::explain::{RootPath, paths_to};
use super::graph::{Graph, Reason, Root};
use super::removed::Removed;
use super::scan::{Scan, scan};
use super::sweep;
use crate::digest::Digest;
use crate::error::{Error, ErrorKind, Result};
use crate::image::familiar;
use crate::records::{BlobRecord, Resource};
use crate::snapshot::Snapshotter;
use crate::store::Store;

/// Maximum number of references to a blob that the error names.
const NAMED: usize = 3;

/// Options of [`remove`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct RemoveOptions {
    /// The current time, against which expiry is checked. Tests set it.
    pub now: SystemTime,
    /// Whether blobs are removed even if something refers to them. The images and other resources
    /// that refer to them are then incomplete.
    pub force: bool,
    /// Whether a blob that is not in the store is skipped, so that a removal can be repeated.
    pub skip_absent: bool,
}

impl Default for RemoveOptions {
    fn default() -> Self {
        RemoveOptions {
            now: SystemTime::now(),
            force: false,
            skip_absent: false,
        }
    }
}

impl RemoveOptions {
    /// Sets [`now`](Self::now).
    #[must_use]
    pub fn with_now(mut self, now: SystemTime) -> Self {
        self.now = now;
        self
    }

    /// Sets [`force`](Self::force).
    #[must_use]
    pub fn with_force(mut self, force: bool) -> Self {
        self.force = force;
        self
    }

    /// Sets [`skip_absent`](Self::skip_absent).
    #[must_use]
    pub fn with_skip_absent(mut self, skip_absent: bool) -> Self {
        self.skip_absent = skip_absent;
        self
    }
}

/// Removes `blobs`, even if they were stored only recently. Returns what was removed.
///
/// Unless `force` is set, fails if one of `blobs` is in use. A blob is in use if one of these
/// things refers to it, directly or through other blobs or snapshots:
///
/// - an image or a lease;
/// - a blob or a snapshot with the label [`GC_ROOT`](crate::labels::GC_ROOT);
/// - a blob or a snapshot that was stored without a lease less than a day ago, and that is not in
///   `blobs`.
///
/// A blob is also in use if it has the label `GC_ROOT` itself, if an ingest with the digest of the
/// blob as its key grew less than a day ago, or if an [owner](crate::owner) claims the blob. The
/// owner that the store is opened for does not count.
///
/// Other jobs may use the store during the removal. A blob that another job begins to use meanwhile
/// stays, and is not in the result.
///
/// # Errors
/// `NotFound` if `skip_absent` is not set and a blob is not in the store; `Busy` if `force` is not
/// set and anything else keeps a blob (the message names up to three of the things that keep it);
/// `Denied` if `force` is set and the store is opened for an owner; `Corrupt` if a record or a
/// document is damaged; errors of the stores. After `NotFound`, `Busy` or `Denied`, nothing is
/// removed.
pub async fn remove(
    store: &Store,
    snapshotters: &[&dyn Snapshotter],
    blobs: &BTreeSet<Digest>,
    options: &RemoveOptions,
) -> Result<Removed> {
    let removed = remove_named(store, snapshotters, blobs, options).await;
    removed.map_err(|error| error.operation("remove blob"))
}

async fn remove_named(
    store: &Store,
    snapshotters: &[&dyn Snapshotter],
    blobs: &BTreeSet<Digest>,
    options: &RemoveOptions,
) -> Result<Removed> {
    if let Some(owner) = store.owner().filter(|_| options.force) {
        return Err(Error::new(
            ErrorKind::Denied,
            format!("owners other than {owner} may use the blob; remove it without force"),
        ));
    }
    let blobs = &if options.skip_absent {
        present(store, blobs).await?
    } else {
        blobs.clone()
    };
    let mut found = scan_unused(store, snapshotters, blobs, options).await?;
    if add_records(store, blobs, options.skip_absent).await? {
        found = scan_unused(store, snapshotters, blobs, options).await?;
    }
    let Scan {
        blobs: mut seen,
        tombstoned,
        ..
    } = found;
    let tombstoned: Vec<Digest> = tombstoned.intersection(blobs).copied().collect();
    seen.retain(|(digest, _)| blobs.contains(digest) && !tombstoned.contains(digest));
    let mut removed = Removed {
        blobs: sweep::reap(store, &tombstoned).await?,
        ..Removed::default()
    };
    removed.blobs.extend(sweep::blobs(store, &seen).await?);
    store.content.compact().await?;
    Ok(removed)
}

/// Scans the store. If the removal is not forced, also checks that nothing else refers to `blobs`.
async fn scan_unused(
    store: &Store,
    snapshotters: &[&dyn Snapshotter],
    blobs: &BTreeSet<Digest>,
    options: &RemoveOptions,
) -> Result<Scan> {
    let found = scan(store, snapshotters, options.now, true, store.owner()).await?;
    if !options.force {
        check_unused(&found.graph, blobs, store.owner().is_none())?;
    }
    Ok(found)
}

/// Returns the digests in `blobs` whose blobs are in the store.
async fn present(store: &Store, blobs: &BTreeSet<Digest>) -> Result<BTreeSet<Digest>> {
    let mut present = BTreeSet::new();
    for digest in blobs {
        let stat = store.content.stat(digest).await?;
        present.extend(stat.map(|stat| stat.digest));
    }
    Ok(present)
}

/// Adds the missing records of `blobs`. Their revisions then show whether a blob is used meanwhile.
/// Returns whether a record was missing.
async fn add_records(store: &Store, blobs: &BTreeSet<Digest>, skip_absent: bool) -> Result<bool> {
    let mut missing = Vec::new();
    for digest in blobs {
        let Some(stat) = store.content.stat(digest).await? else {
            if skip_absent {
                continue;
            }
            return Err(Error::not_found("no such blob; check the digest").subject(digest));
        };
        if store.blobs().load(digest).await?.is_none() {
            missing.push((*digest, stat.size));
        }
    }
    for (digest, size) in &missing {
        let new =
            |found: Option<BlobRecord>| Ok(found.unwrap_or_else(|| BlobRecord::new(*size, None)));
        store.blobs().update(digest, new).await?;
    }
    Ok(!missing.is_empty())
}

/// Checks that no gc root reaches `blobs`. Young `blobs` do not count as gc roots here.
/// `may_force` states whether the caller may force the removal.
fn check_unused(graph: &Graph, blobs: &BTreeSet<Digest>, may_force: bool) -> Result<()> {
    let counts = |root: &Root| match (&root.reason, graph.node(root.id)) {
        (Reason::Young { .. }, Resource::Content(digest)) => !blobs.contains(digest),
        _ => true,
    };
    let marks = graph.mark_from(counts);
    for digest in blobs {
        let id = graph.find(&Resource::Content(*digest));
        let Some(id) = id.filter(|id| marks[*id].is_some()) else {
            continue;
        };
        return Err(in_use(digest, &paths_to(graph, id, counts), may_force));
    }
    Ok(())
}

fn in_use(digest: &Digest, paths: &[RootPath], may_force: bool) -> Error {
    let mut users: Vec<String> = paths.iter().take(NAMED).map(user).collect();
    if paths.len() > NAMED {
        users.push(format!("{} more", paths.len() - NAMED));
    }
    let or_force = if may_force {
        ", or force the removal"
    } else {
        ""
    };
    Error::busy(format!(
        "the blob is in use by {}; first remove everything that refers to it{or_force}",
        users.join(", ")
    ))
    .subject(digest)
}

/// Returns, for a message, the beginning of a path, and the resource through which the path leads
/// to the blob.
fn user(path: &RootPath) -> String {
    let first = &path.steps[0];
    let root = match (&path.reason, first) {
        (Reason::Name, Resource::Image(name)) => {
            let shown = name.parse().map_or(name.clone(), |name| familiar(&name));
            format!("the image {shown}")
        }
        (Reason::Lease { id, .. }, _) => format!("the lease {id}"),
        (Reason::Claim { owner }, _) => format!("the owner {owner}"),
        (Reason::Unnamed, _) => format!("the unnamed image {first}"),
        (Reason::Label, _) => format!("a label of {first}"),
        (Reason::Name | Reason::Young { .. }, _) => first.to_string(),
    };
    match path.steps.len() {
        0..=2 => root,
        count => format!("{root} through {}", path.steps[count - 2]),
    }
}
