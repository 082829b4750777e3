//! Layers become committed snapshots, each named by its chain id.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use cas_core::error::ErrorKind;
use cas_core::labels::LEASE;
use cas_core::lease::{self, LeaseGuard};
use cas_core::snapshot::{Commit, SnapshotKind};
use cas_core::{Descriptor, Digest, Labels, Manifest, Result, Snapshotter, Store, unique};

use super::part::Part;
use super::turn::Turn;
use super::{chain, hold, note, pairs};
use crate::progress::Progress;

/// Where the snapshots of an image are made.
#[derive(Clone, Copy)]
pub struct Target<'a> {
    /// What makes them.
    pub snapshotter: &'a dyn Snapshotter,
    /// A directory for locks, by which processes take turns; made where it is absent.
    pub locks: &'a Path,
}

/// Unpacks what the snapshotter does not have yet; the chain id of the whole, which is the name
/// of its committed snapshot, or nothing for an image without layers. The configuration refers to
/// that from then on, so that it is kept as long as the image is. Another process that unpacks
/// the same is waited for.
///
/// # Errors
/// `NotFound` for a layer that is not in the store; `Corrupt` for one that is damaged, or when
/// manifest and configuration do not fit together; those of the snapshotter. What was being made
/// is then removed; layers that were committed stay until they are collected, and are not
/// unpacked again.
pub async fn to_snapshots(
    store: &Store,
    target: Target<'_>,
    manifest: &Manifest,
    progress: &Arc<dyn Progress>,
) -> Result<Option<Digest>> {
    let unpacking = Unpacking::begin(store, target, manifest, progress).await?;
    unpacking.finish().await
}

/// An image on its way into snapshots.
pub(super) struct Unpacking<'a> {
    pub(super) store: &'a Store,
    pub(super) target: Target<'a>,
    pub(super) progress: &'a Arc<dyn Progress>,
    guard: LeaseGuard,
    config: Descriptor,
    /// All layers with their diff ids, lowest first.
    pub(super) layers: Vec<(Descriptor, Digest)>,
    pub(super) chain: Vec<Digest>,
    /// How many of the layers, from the lowest on, have their snapshots.
    pub(super) there: usize,
    /// The layers above those, where they are unpacked side by side.
    pub(super) parts: Vec<Option<Part>>,
    /// The file system of their trees, open since before the first write to it: a failure that
    /// somebody else was told of meanwhile is told here as well.
    pub(super) watch: Option<Arc<File>>,
    turn: Option<Turn>,
}

impl<'a> Unpacking<'a> {
    /// Finds out what is to be done; `manifest` and its configuration are in the store.
    ///
    /// # Errors
    /// Those of [`to_snapshots`].
    pub(super) async fn begin(
        store: &'a Store,
        target: Target<'a>,
        manifest: &Manifest,
        progress: &'a Arc<dyn Progress>,
    ) -> Result<Self> {
        let mut unpacking = Unpacking {
            store,
            target,
            progress,
            guard: LeaseGuard::begin(store, "unpack").await?,
            config: manifest.config.clone(),
            layers: Vec::new(),
            chain: Vec::new(),
            there: 0,
            parts: Vec::new(),
            watch: None,
            turn: None,
        };
        match unpacking.prepare(manifest).await {
            Ok(()) => Ok(unpacking),
            Err(error) => unpacking.end(Err(error)).await,
        }
    }

    async fn prepare(&mut self, manifest: &Manifest) -> Result<()> {
        hold(&self.guard, manifest).await?;
        self.layers = pairs(self.store, manifest).await?;
        self.chain = chain(&self.layers);
        let names: Vec<String> = self.chain.iter().map(ToString::to_string).collect();
        self.hold_snapshots(&names).await?;
        if self.rebases() {
            self.turn = self.take_turn().await?;
            self.prepare_parts().await?;
        }
        Ok(())
    }

    /// Waits until the lowest missing layer is nobody else's.
    async fn take_turn(&mut self) -> Result<Option<Turn>> {
        loop {
            self.there = self.committed().await?;
            let Some(missing) = self.chain.get(self.there) else {
                return Ok(None);
            };
            let turn = self.turn(missing).await?;
            if self.committed().await? == self.there {
                return Ok(Some(turn));
            }
        }
    }

    pub(super) async fn turn(&self, chain_id: &Digest) -> Result<Turn> {
        Turn::wait(self.target.locks, chain_id, self.progress.as_ref()).await
    }

    /// How many layers, from the lowest on, have their snapshots.
    pub(super) async fn committed(&self) -> Result<usize> {
        let mut there = self.chain.len();
        while there > 0 && !self.holds(&self.chain[there - 1]).await? {
            there -= 1;
        }
        Ok(there)
    }

    /// Unpacks what is left, and commits.
    ///
    /// # Errors
    /// Those of [`to_snapshots`].
    pub(super) async fn finish(mut self) -> Result<Option<Digest>> {
        let outcome = self.complete().await;
        self.end(outcome).await
    }

    async fn complete(&mut self) -> Result<Option<Digest>> {
        match self.rebases() {
            true => self.side_by_side().await?,
            false => self.one_by_one().await?,
        }
        if let Some(top) = self.chain.last() {
            let reference = format!("containerd.io/gc.ref.snapshot.{}", self.name());
            let label = Labels::from([(reference, top.to_string())]);
            lease::set_labels(self.store, &self.config, &label).await?;
        }
        Ok(self.chain.last().copied())
    }

    /// Ends the work with this outcome; what an error leaves unfinished goes.
    pub(super) async fn end<T>(self, outcome: Result<T>) -> Result<T> {
        if outcome.is_err() {
            for part in self.parts.iter().flatten() {
                self.give_up(&part.key).await;
            }
        }
        self.guard.finish_with(outcome).await
    }

    pub(super) fn rebases(&self) -> bool {
        self.target.snapshotter.rebases()
    }

    fn name(&self) -> &'static str {
        self.target.snapshotter.name()
    }

    pub(super) async fn hold_snapshots(&self, keys: &[String]) -> Result<()> {
        self.guard.pin_snapshots(self.name(), keys).await
    }

    /// Whether the snapshot is there, and with all below it stays.
    pub(super) async fn holds(&self, chain_id: &Digest) -> Result<bool> {
        let (snapshotter, key) = (self.target.snapshotter, chain_id.to_string());
        let found = snapshotter.stat(&key).await?;
        let committed = found.is_some_and(|info| info.kind == SnapshotKind::Committed);
        Ok(committed && self.guard.bump_snapshot(snapshotter, &key).await?)
    }

    /// A key for the snapshot of a layer while it is made.
    pub(super) fn extract_key(&self, place: usize) -> String {
        format!("{} {}", unique::key("extract"), self.chain[place])
    }

    /// Says that the snapshot lives by leases and references alone.
    pub(super) fn labels(&self) -> Labels {
        Labels::from([(LEASE.to_owned(), self.guard.id().to_owned())])
    }

    /// Commits a layer; one that somebody else has committed meanwhile will do.
    pub(super) async fn commit(&self, place: usize, key: &str, options: Commit) -> Result<()> {
        let (snapshotter, chain_id) = (self.target.snapshotter, &self.chain[place]);
        let options = Commit {
            labels: self.labels(),
            ..options
        };
        let name = chain_id.to_string();
        match snapshotter.commit(&name, key, options).await {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                match self.holds(chain_id).await? {
                    true => snapshotter.remove(key).await?,
                    false => return Err(error),
                }
            }
            committed => committed?,
        }
        let (layer, diff_id) = &self.layers[place];
        note(self.store, layer, diff_id, self.progress.as_ref()).await;
        Ok(())
    }

    /// Removes a snapshot that could not be finished.
    pub(super) async fn give_up(&self, key: &str) {
        if let Err(left) = self.target.snapshotter.remove(key).await {
            let message = format!("the snapshot {key:?} of a failed unpack stays: {left}");
            self.progress.warn(&message);
        }
    }
}
