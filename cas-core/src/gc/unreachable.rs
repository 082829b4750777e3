//! What no root reaches.

use std::collections::BTreeSet;

use super::removed::Removed;
use super::scan::Scan;
use super::sweep;
use crate::content::IngestStatus;
use crate::digest::Digest;
use crate::error::{ErrorKind, Result};
use crate::image::Image;
use crate::records::{Resource, Revision};
use crate::snapshot::{Info, Snapshotter};
use crate::store::Store;

/// What was found of a store, without what is to be kept.
pub(super) struct Unreachable {
    blobs: Vec<(Digest, Revision)>,
    tombstoned: BTreeSet<Digest>,
    snapshots: Vec<(usize, Info)>,
    images: Vec<Image>,
    ingests: Vec<IngestStatus>,
}

impl Unreachable {
    /// Marks from the roots and keeps the rest; `snapshotters` are the names behind the numbers.
    pub(super) fn of(found: Scan, snapshotters: &[&str]) -> Self {
        let Scan {
            mut blobs,
            tombstoned,
            mut snapshots,
            expired: mut images,
            mut ingests,
            graph,
        } = found;
        let marks = graph.mark();
        let dead = |resource: Resource| {
            let id = graph.find(&resource);
            id.is_none_or(|id| marks[id].is_none())
        };
        // One that is tombstoned is so at another revision by now, or was when it was noted.
        blobs
            .retain(|(digest, _)| !tombstoned.contains(digest) && dead(Resource::Content(*digest)));
        snapshots.retain(|(number, info)| dead(snapshot(snapshotters[*number], &info.key)));
        images.retain(|image| dead(Resource::Image(image.name.to_string())));
        ingests.retain(|ingest| dead(Resource::Ingest(ingest.key.clone())));
        Unreachable {
            blobs,
            tombstoned,
            snapshots,
            images,
            ingests,
        }
    }

    /// Leaves everything but these blobs alone.
    pub(super) fn limit(&mut self, only: &BTreeSet<Digest>) {
        self.blobs.retain(|(digest, _)| only.contains(digest));
        self.tombstoned.clear();
        self.snapshots.clear();
        self.images.clear();
        self.ingests.clear();
    }

    /// Removes it all, as far as nobody has come to want it.
    pub(super) async fn remove(
        self,
        store: &Store,
        snapshotters: &[&dyn Snapshotter],
    ) -> Result<Removed> {
        let mut removed = Removed::default();
        for image in &self.images {
            match store.images.delete(&image.name, Some(&image.target)).await {
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                outcome => outcome.map(|()| removed.images.push(image.name.to_string()))?,
            }
        }
        let gone = sweep::snapshots(snapshotters, &self.snapshots).await?;
        let named = |(number, key): (usize, String)| snapshot(snapshotters[number].name(), &key);
        removed.snapshots = gone.into_iter().map(named).collect();
        let tombstoned: Vec<Digest> = self.tombstoned.into_iter().collect();
        removed.blobs = sweep::reap(store, &tombstoned).await?;
        removed
            .blobs
            .extend(sweep::blobs(store, &self.blobs).await?);
        for ingest in self.ingests {
            match store.content.discard(&ingest.key).await {
                // Somebody goes on with it.
                Err(error) if error.kind() == ErrorKind::Busy => {}
                Ok(false) => {}
                outcome => {
                    outcome?;
                    removed.ingests.push((ingest.key, ingest.offset));
                }
            }
        }
        if !removed.is_empty() {
            store.content.compact().await?;
        }
        Ok(removed)
    }

    /// Tells what would be removed.
    pub(super) async fn preview(
        self,
        store: &Store,
        snapshotters: &[&dyn Snapshotter],
    ) -> Result<Removed> {
        let mut removed = Removed::default();
        let blobs = self.blobs.iter().map(|(digest, _)| digest);
        for digest in self.tombstoned.iter().chain(blobs) {
            let stat = store.content.stat(digest).await?;
            let size = stat.map_or(0, |stat| stat.size);
            removed.blobs.push((*digest, size));
        }
        let snapshots = self.snapshots.iter();
        let snapshots = snapshots.map(|(number, info)| (snapshotters[*number].name(), &info.key));
        removed.snapshots = snapshots.map(|(name, key)| snapshot(name, key)).collect();
        let ingests = self.ingests.into_iter();
        removed.ingests = ingests.map(|ingest| (ingest.key, ingest.offset)).collect();
        let images = self.images.iter();
        removed.images = images.map(|image| image.name.to_string()).collect();
        Ok(removed)
    }
}

fn snapshot(snapshotter: &str, key: &str) -> Resource {
    Resource::Snapshot {
        snapshotter: snapshotter.to_owned(),
        key: key.to_owned(),
    }
}
