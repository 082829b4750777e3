//! Layers become committed snapshots, each named by its chain id.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use cas_core::error::ErrorKind;
use cas_core::labels::LEASE;
use cas_core::lease::{self, LeaseGuard};
use cas_core::snapshot::{Commit, SnapshotKind};
use cas_core::{Descriptor, Digest, Labels, Manifest, Result, Snapshotter, Store, unique};

use super::chain_lock::ChainLock;
use super::standalone::StandaloneLayer;
use super::{chain_ids_of, layers_with_diff_ids, pin_image, record_diff_id};
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
    pub(super) existing: usize,
    /// The layers above those, where they are unpacked side by side.
    pub(super) standalone: Vec<Option<StandaloneLayer>>,
    /// The file system of their trees, open since before the first write to it: a failure that
    /// somebody else was told of meanwhile is told here as well.
    pub(super) device: Option<Arc<File>>,
    lock: Option<ChainLock>,
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
            existing: 0,
            standalone: Vec::new(),
            device: None,
            lock: None,
        };
        match unpacking.prepare(manifest).await {
            Ok(()) => Ok(unpacking),
            Err(error) => unpacking.end(Err(error)).await,
        }
    }

    async fn prepare(&mut self, manifest: &Manifest) -> Result<()> {
        pin_image(&self.guard, manifest).await?;
        self.layers = layers_with_diff_ids(self.store, manifest).await?;
        self.chain = chain_ids_of(&self.layers);
        let names: Vec<String> = self.chain.iter().map(ToString::to_string).collect();
        self.pin_snapshots(&names).await?;
        if self.rebases() {
            self.lock = self.lock_first_missing().await?;
            self.prepare_standalone().await?;
        }
        Ok(())
    }

    /// Waits until the lowest missing layer is nobody else's.
    async fn lock_first_missing(&mut self) -> Result<Option<ChainLock>> {
        loop {
            self.existing = self.count_committed().await?;
            let Some(missing) = self.chain.get(self.existing) else {
                return Ok(None);
            };
            let lock = self.lock(missing).await?;
            if self.count_committed().await? == self.existing {
                return Ok(Some(lock));
            }
        }
    }

    pub(super) async fn lock(&self, chain_id: &Digest) -> Result<ChainLock> {
        ChainLock::wait(self.target.locks, chain_id, self.progress.as_ref()).await
    }

    /// How many layers, from the lowest on, have their snapshots.
    pub(super) async fn count_committed(&self) -> Result<usize> {
        let mut existing = self.chain.len();
        while existing > 0 && !self.pin_committed(&self.chain[existing - 1]).await? {
            existing -= 1;
        }
        Ok(existing)
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
        if self.rebases() {
            self.unpack_parallel().await?;
        } else {
            self.unpack_serial().await?;
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
            for layer in self.standalone.iter().flatten() {
                self.remove_unfinished(&layer.key).await;
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

    pub(super) async fn pin_snapshots(&self, keys: &[String]) -> Result<()> {
        self.guard.pin_snapshots(self.name(), keys).await
    }

    /// Whether the snapshot is existing, and with all below it stays.
    pub(super) async fn pin_committed(&self, chain_id: &Digest) -> Result<bool> {
        let (snapshotter, key) = (self.target.snapshotter, chain_id.to_string());
        let found = snapshotter.stat(&key).await?;
        let committed = found.is_some_and(|info| info.kind == SnapshotKind::Committed);
        Ok(committed && self.guard.bump_snapshot(snapshotter, &key).await?)
    }

    /// A key for the snapshot of a layer while it is made.
    pub(super) fn extract_key(&self, index: usize) -> String {
        format!("{} {}", unique::key("extract"), self.chain[index])
    }

    /// Says that the snapshot lives by leases and references alone.
    pub(super) fn labels(&self) -> Labels {
        Labels::from([(LEASE.to_owned(), self.guard.id().to_owned())])
    }

    /// Commits a layer; one that somebody else has committed meanwhile will do.
    pub(super) async fn commit(&self, index: usize, key: &str, options: Commit) -> Result<()> {
        let (snapshotter, chain_id) = (self.target.snapshotter, &self.chain[index]);
        let options = Commit {
            labels: self.labels(),
            ..options
        };
        let name = chain_id.to_string();
        match snapshotter.commit(&name, key, options).await {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                if !self.pin_committed(chain_id).await? {
                    return Err(error);
                }
                snapshotter.remove(key).await?;
            }
            committed => committed?,
        }
        let (layer, diff_id) = &self.layers[index];
        record_diff_id(self.store, layer, diff_id, self.progress.as_ref()).await;
        Ok(())
    }

    /// Removes a snapshot that could not be finished.
    pub(super) async fn remove_unfinished(&self, key: &str) {
        if let Err(left) = self.target.snapshotter.remove(key).await {
            let message = format!("the snapshot {key:?} of a failed unpack stays: {left}");
            self.progress.warn(&message);
        }
    }
}
