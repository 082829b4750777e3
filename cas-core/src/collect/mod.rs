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

use self::graph::{Graph, Reach};
use self::survey::{Survey, survey};
use crate::digest::Digest;
use crate::error::{Kind, Result};
use crate::pool;
use crate::records::{Resource, Revision};
use crate::snapshot::{Info, Snapshotter};
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
    let (found, marks) = pool::run(move || {
        let marks = found.graph.mark();
        Ok((found, marks))
    })
    .await?;
    let dead = Dead {
        graph: &found.graph,
        marks: &marks,
        snapshotters,
    };
    match options.dry_run {
        true => dead.tell(store, &found).await,
        false => dead.remove(store, &found, options.only.as_ref()).await,
    }
}

/// What is not marked.
struct Dead<'a> {
    graph: &'a Graph,
    marks: &'a [Option<Reach>],
    snapshotters: &'a [&'a dyn Snapshotter],
}

impl Dead<'_> {
    fn is(&self, resource: &Resource) -> bool {
        let id = self.graph.find(resource);
        id.is_none_or(|id| self.marks[id].is_none())
    }

    fn snapshot(&self, number: usize, key: &str) -> Resource {
        Resource::Snapshot {
            snapshotter: self.snapshotters[number].name().to_owned(),
            key: key.to_owned(),
        }
    }

    fn blobs(&self, found: &Survey) -> Vec<(Digest, Revision)> {
        let blobs = found.blobs.iter();
        // One that is condemned is so at another revision by now, or was when it was noted.
        let live = blobs.filter(|(digest, _)| !found.condemned.contains(digest));
        let dead = live.filter(|(digest, _)| self.is(&Resource::Content(*digest)));
        dead.cloned().collect()
    }

    async fn remove(
        &self,
        store: &Store,
        found: &Survey,
        only: Option<&BTreeSet<Digest>>,
    ) -> Result<Collected> {
        let mut collected = Collected::default();
        let mut blobs = self.blobs(found);
        if let Some(only) = only {
            blobs.retain(|(digest, _)| only.contains(digest));
            collected.blobs = sweep::blobs(store, &blobs).await?;
            return Ok(collected);
        }
        for image in &found.expired {
            let name = image.name.to_string();
            if self.is(&Resource::Image(name.clone())) {
                match store.images.delete(&image.name, Some(&image.target)).await {
                    Err(error) if error.kind() == Kind::NotFound => {}
                    outcome => outcome.map(|()| collected.images.push(name))?,
                }
            }
        }
        let dead = |number, info: &Info| self.is(&self.snapshot(number, &info.key));
        let gone = sweep::snapshots(self.snapshotters, &found.snapshots, dead).await?;
        collected.snapshots = gone
            .iter()
            .map(|(number, key)| self.snapshot(*number, key))
            .collect();
        let condemned: Vec<Digest> = found.condemned.iter().copied().collect();
        collected.blobs = sweep::bury(store, &condemned).await?;
        collected.blobs.extend(sweep::blobs(store, &blobs).await?);
        for ingest in &found.ingests {
            if self.is(&Resource::Ingest(ingest.key.clone())) {
                match store.content.discard(&ingest.key).await {
                    // Somebody goes on with it.
                    Err(error) if error.kind() == Kind::Busy => {}
                    Ok(false) => {}
                    outcome => {
                        outcome?;
                        collected.ingests.push((ingest.key.clone(), ingest.offset));
                    }
                }
            }
        }
        Ok(collected)
    }

    async fn tell(&self, store: &Store, found: &Survey) -> Result<Collected> {
        let mut collected = Collected::default();
        let candidates = self.blobs(found).into_iter().map(|(digest, _)| digest);
        for digest in found.condemned.iter().copied().chain(candidates) {
            let stat = store.content.stat(&digest).await?;
            collected
                .blobs
                .push((digest, stat.map_or(0, |stat| stat.size)));
        }
        for (number, info) in &found.snapshots {
            let resource = self.snapshot(*number, &info.key);
            if self.is(&resource) {
                collected.snapshots.push(resource);
            }
        }
        for ingest in &found.ingests {
            if self.is(&Resource::Ingest(ingest.key.clone())) {
                collected.ingests.push((ingest.key.clone(), ingest.offset));
            }
        }
        let names = found.expired.iter().map(|image| image.name.to_string());
        collected.images = names
            .filter(|name| self.is(&Resource::Image(name.clone())))
            .collect();
        Ok(collected)
    }
}
