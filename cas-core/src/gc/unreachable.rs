//! The part of a store that no gc root reaches.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::SystemTime;

use super::only_copies::{keep_stray_tars, needed_snapshots};
use super::removed::{Leftover, Removed};
use super::scan::Scan;
use super::sweep;
use crate::content::{ContentStore, IngestStatus, discard_unless_open};
use crate::descriptor::Descriptor;
use crate::digest::Digest;
use crate::error::{ErrorKind, Result};
use crate::image::Reference;
use crate::labels::VERIFIED_LAYER;
use crate::records::{Resource, Revision, UNLEASED_TTL};
use crate::snapshot::{Info, Snapshotter, Usage};
use crate::store::Store;

/// The place of leftovers in the content store.
const CONTENT: &str = "content";

/// Everything that a scan found and that no root reaches. In a collection for an owner, also the
/// blobs that stay, but lose the claim of the owner.
pub(super) struct Unreachable {
    pub(super) blobs: Vec<(Digest, Revision)>,
    /// Blobs that stay, but that the owner no longer claims.
    pub(super) released: Vec<(Digest, Revision)>,
    pub(super) tombstoned: BTreeSet<Digest>,
    pub(super) snapshots: Vec<(usize, Info)>,
    pub(super) images: Vec<(Reference, Descriptor)>,
    pub(super) ingests: Vec<IngestStatus>,
    /// If given, leftovers of killed or failed jobs are removed, too. In the content store, only
    /// leftovers that were stored before this time are removed.
    pub(super) leftovers: Option<SystemTime>,
}

impl Unreachable {
    /// Selects what no root of a scan reaches. `snapshotters` has the names of the snapshotters, by
    /// their numbers in the scan.
    pub(super) fn of(found: Scan, snapshotters: &[&str], now: SystemTime) -> Self {
        let Scan {
            mut blobs,
            tombstoned,
            mut snapshots,
            expired: mut images,
            mut ingests,
            graph,
            ..
        } = found;
        let marks = graph.mark();
        let unreachable = |resource: Resource| {
            let id = graph.find(&resource);
            id.is_none_or(|id| marks[id].is_none())
        };
        // A blob that is already tombstoned needs no second tombstone. It is removed with
        // `tombstoned`, which does not need the revision that the scan read.
        blobs.retain(|(digest, _)| {
            !tombstoned.contains(digest) && unreachable(Resource::Content(*digest))
        });
        snapshots.retain(|(number, info)| unreachable(snapshot(snapshotters[*number], &info.key)));
        images.retain(|(name, _)| unreachable(Resource::Image(name.to_string())));
        ingests.retain(|ingest| unreachable(Resource::Ingest(ingest.key.clone())));
        Unreachable {
            blobs,
            released: Vec::new(),
            tombstoned,
            snapshots,
            images,
            ingests,
            leftovers: Some(now - UNLEASED_TTL),
        }
    }

    /// Restricts the removal to the blobs of `only` that are not tombstoned, and to the claims on
    /// them.
    pub(super) fn limit(&mut self, only: &BTreeSet<Digest>) {
        self.blobs.retain(|(digest, _)| only.contains(digest));
        self.released.retain(|(digest, _)| only.contains(digest));
        self.tombstoned.clear();
        self.snapshots.clear();
        self.images.clear();
        self.ingests.clear();
        self.leftovers = None;
    }

    /// Spares snapshots that may have the only copies of layers of images that stay.
    ///
    /// # Errors
    /// Errors of the store.
    pub(super) async fn spare_only_copies(
        &mut self,
        store: &Store,
        snapshotters: &[&dyn Snapshotter],
    ) -> Result<()> {
        let keeps_tars = |number: usize| snapshotters[number].keeps_tars();
        let of_tars = self
            .snapshots
            .iter()
            .filter(|(number, _)| keeps_tars(*number));
        let layers = of_tars.filter_map(|(_, info)| info.labels.get(VERIFIED_LAYER)?.parse().ok());
        let layers: BTreeSet<Digest> = layers.collect();
        let removed = self.blobs.iter().map(|(digest, _)| *digest).collect();
        let needed = needed_snapshots(store, layers, &removed).await?;
        self.snapshots
            .retain(|(number, info)| !keeps_tars(*number) || !needed.contains(&info.key));
        Ok(())
    }

    /// Removes everything, except what has come into use meanwhile. Returns what was removed.
    pub(super) async fn remove(
        self,
        store: &Store,
        snapshotters: &[&dyn Snapshotter],
    ) -> Result<Removed> {
        let mut removed = Removed::default();
        for (name, target) in &self.images {
            match store.images.delete(name, Some(target)).await {
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                outcome => outcome.map(|()| removed.images.push(name.to_string()))?,
            }
        }
        let sizes = sizes(snapshotters, &self.snapshots).await;
        let gone = sweep::snapshots(snapshotters, &self.snapshots).await?;
        let sized = |(number, key): (usize, String)| {
            let resource = snapshot(snapshotters[number].name(), &key);
            let size = sizes.get(&resource).copied().unwrap_or_default();
            (resource, size)
        };
        removed.snapshots = gone.into_iter().map(sized).collect();
        if let Some(owner) = store.owner() {
            removed.released = sweep::release(store, &self.released, owner).await?;
        }
        let tombstoned: Vec<Digest> = self.tombstoned.into_iter().collect();
        removed.blobs = sweep::reap(store, &tombstoned).await?;
        removed
            .blobs
            .extend(sweep::blobs(store, &self.blobs).await?);
        if self.leftovers.is_some() {
            // The images that this collection removes do not need the tars in leftovers any more.
            keep_needed(store, snapshotters).await?;
            for snapshotter in snapshotters {
                let place = Leftover::place_in(*snapshotter);
                removed.add_leftover(place, snapshotter.cleanup().await?);
            }
        }
        for ingest in self.ingests {
            // A writer may have resumed the ingest since the scan.
            if discard_unless_open(&*store.content, &ingest.key).await? {
                removed.ingests.push((ingest.key, ingest.offset));
            }
        }
        if let Some(before) = self.leftovers {
            let left = leftovers_of_content(&*store.content, before, true).await?;
            removed.leftovers.extend(left);
            store.images.cleanup().await?;
        }
        // The store is compacted even if nothing was removed, because a collection that was killed
        // earlier may have removed something.
        store.content.compact().await?;
        Ok(removed)
    }

    /// Returns what would be removed.
    pub(super) async fn preview(
        self,
        store: &Store,
        snapshotters: &[&dyn Snapshotter],
    ) -> Result<Removed> {
        let mut removed = Removed::default();
        let blobs = self.blobs.iter().map(|(digest, _)| digest);
        for digest in self.tombstoned.iter().chain(blobs) {
            let stat = store.content.stat(digest).await?;
            removed.blobs.extend(stat.map(|stat| (*digest, stat.size)));
        }
        removed.released = self.released.iter().map(|(digest, _)| *digest).collect();
        let sizes = sizes(snapshotters, &self.snapshots).await;
        removed.snapshots = sizes.into_iter().collect();
        if let Some(before) = self.leftovers {
            keep_needed(store, snapshotters).await?;
            removed.leftovers = leftovers(store, snapshotters, before).await?;
        }
        let ingests = self.ingests.into_iter();
        removed.ingests = ingests.map(|ingest| (ingest.key, ingest.offset)).collect();
        let images = self.images.iter();
        removed.images = images.map(|(name, _)| name.to_string()).collect();
        Ok(removed)
    }
}

/// Keeps the tars that may be the only copies of layers, and warns about them.
async fn keep_needed(store: &Store, snapshotters: &[&dyn Snapshotter]) -> Result<()> {
    for snapshotter in snapshotters {
        let images = keep_stray_tars(store, *snapshotter).await?;
        let paths: BTreeSet<&PathBuf> = images.iter().flat_map(|one| one.tars.values()).collect();
        for path in paths {
            let what = "the record of a snapshot was lost, and its tar may be the only copy of a \
                        layer; the tar is kept; run `cas fsck --repair`";
            tracing::warn!(path = %path.display(), "{what}");
        }
    }
    Ok(())
}

/// Returns what killed or failed jobs have left in the content store and in the snapshotters. In
/// the snapshotters, only leftovers that are not in use (see [`Snapshotter::cleanup`]) are found.
/// In a content store that other processes may use, only leftovers that were stored before the time
/// `before` are found. Elsewhere, leftovers of any age are found.
///
/// # Errors
/// Errors of the store and of the snapshotters.
pub async fn leftovers(
    store: &Store,
    snapshotters: &[&dyn Snapshotter],
    before: SystemTime,
) -> Result<Vec<Leftover>> {
    let mut found = Removed {
        leftovers: leftovers_of_content(&*store.content, before, false)
            .await?
            .into_iter()
            .collect(),
        ..Removed::default()
    };
    for snapshotter in snapshotters {
        let left = snapshotter.leftovers().await?.into_iter();
        left.for_each(|usage| found.add_leftover(Leftover::place_in(*snapshotter), usage));
    }
    Ok(found.leftovers)
}

/// Returns the sizes of snapshots. A snapshot that cannot be measured, because its files are
/// missing or damaged, can be removed all the same, and counts as 0.
async fn sizes(
    snapshotters: &[&dyn Snapshotter],
    snapshots: &[(usize, Info)],
) -> BTreeMap<Resource, u64> {
    let mut sizes = BTreeMap::new();
    for (number, info) in snapshots {
        let snapshotter = snapshotters[*number];
        let size = snapshotter
            .usage(&info.key)
            .await
            .map_or(0, |usage| usage.bytes);
        sizes.insert(snapshot(snapshotter.name(), &info.key), size);
    }
    sizes
}

/// Returns what killed or failed jobs have left in the content store, as one leftover. Removes it
/// if `remove` is set. Only leftovers that were stored before the time `before` are found if other
/// processes may use the store.
pub(crate) async fn leftovers_of_content(
    content: &dyn ContentStore,
    before: SystemTime,
    remove: bool,
) -> Result<Option<Leftover>> {
    let pieces = content.leftovers(before, remove).await?;
    let usage = Usage {
        bytes: pieces.iter().sum(),
        inodes: pieces.len() as u64,
    };
    let place = CONTENT.to_owned();
    Ok((!pieces.is_empty()).then_some(Leftover { place, usage }))
}

fn snapshot(snapshotter: &str, key: &str) -> Resource {
    Resource::Snapshot {
        snapshotter: snapshotter.to_owned(),
        key: key.to_owned(),
    }
}
