//! Layers become committed snapshots, each named by its chain id.

use std::os::fd::AsFd;
use std::sync::Arc;

use cas_core::collect::{Guard, LEASE};
use cas_core::error::Kind as ErrorKind;
use cas_core::snapshot::{Commit, Kind, Mount, chain_ids};
use cas_core::{Descriptor, Digest, Labels, Manifest, Result, Snapshotter, Store, dispatch, pool};

use super::{Layer, hold, note, pairs};
use crate::apply::Tree;
use crate::flow::{self, Sync};
use crate::progress::Progress;
use cas_core::unique;

/// Unpacks what the snapshotter does not have yet; the chain id of the whole, which is the name
/// of its committed snapshot, or nothing for an image without layers. The configuration refers to
/// that from then on, so that it is kept as long as the image is.
///
/// # Errors
/// `NotFound` for a layer that is not in the store; `Corrupt` for one that is damaged, or when
/// manifest and configuration do not fit together; those of the snapshotter. What was being made
/// is then removed; layers below it stay until they are collected, and are not unpacked again.
pub async fn to_snapshots(
    store: &Store,
    snapshotter: &dyn Snapshotter,
    manifest: &Manifest,
    progress: &Arc<dyn Progress>,
) -> Result<Option<Digest>> {
    let guard = Guard::begin(store, "unpack").await?;
    let unpack = Unpack {
        store,
        snapshotter,
        guard: &guard,
        progress,
    };
    let unpacked = unpack.image(manifest).await;
    guard.settle(unpacked).await
}

async fn is_committed(snapshotter: &dyn Snapshotter, chain_id: &Digest) -> Result<bool> {
    let found = snapshotter.stat(&chain_id.to_string()).await?;
    Ok(found.is_some_and(|info| info.kind == Kind::Committed))
}

struct Unpack<'a> {
    store: &'a Store,
    snapshotter: &'a dyn Snapshotter,
    guard: &'a Guard,
    progress: &'a Arc<dyn Progress>,
}

impl Unpack<'_> {
    async fn image(&self, manifest: &Manifest) -> Result<Option<Digest>> {
        hold(self.guard, manifest).await?;
        let layers = pairs(self.store, manifest).await?;
        let diff_ids: Vec<Digest> = layers.iter().map(|(_, diff_id)| *diff_id).collect();
        let chain = chain_ids(&diff_ids);
        self.layers(layers, &chain).await?;
        if let Some(top) = chain.last() {
            let reference = format!("containerd.io/gc.ref.snapshot.{}", self.snapshotter.name());
            let label = Labels::from([(reference, top.to_string())]);
            dispatch::set_labels(self.store, &manifest.config, &label).await?;
        }
        Ok(chain.last().copied())
    }

    async fn layers(&self, layers: Vec<(Descriptor, Digest)>, chain: &[Digest]) -> Result<()> {
        let names: Vec<String> = chain.iter().map(ToString::to_string).collect();
        let snapshotter = self.snapshotter.name();
        self.guard.hold_snapshots(snapshotter, &names).await?;
        let mut there = chain.len();
        while there > 0 && !self.holds(&chain[there - 1]).await? {
            there -= 1;
        }
        for (place, layer) in layers.into_iter().enumerate().skip(there) {
            let parent = place.checked_sub(1).map(|below| chain[below]);
            self.layer(layer, parent, &chain[place]).await?;
        }
        Ok(())
    }

    /// Whether the snapshot is there, and with all below it stays.
    async fn holds(&self, chain_id: &Digest) -> Result<bool> {
        let key = chain_id.to_string();
        Ok(is_committed(self.snapshotter, chain_id).await?
            && self.guard.touch_snapshot(self.snapshotter, &key).await?)
    }

    /// Makes the snapshot `chain_id` of a layer on `parent`.
    async fn layer(
        &self,
        layer: (Descriptor, Digest),
        parent: Option<Digest>,
        chain_id: &Digest,
    ) -> Result<()> {
        let layer = Layer::open(self.store, layer).await?;
        let (descriptor, diff_id) = (layer.descriptor.clone(), layer.diff_id);
        let key = format!("{} {chain_id}", unique::key("extract"));
        let keys = std::slice::from_ref(&key);
        self.guard
            .hold_snapshots(self.snapshotter.name(), keys)
            .await?;
        let parent = parent.map(|parent| parent.to_string());
        let prepared = self
            .snapshotter
            .prepare(&key, parent.as_deref(), self.labels());
        let mounts = prepared.await?;
        let outcome = match self.apply(layer, &mounts).await {
            Ok(()) => self.commit(&key, chain_id).await,
            Err(error) => Err(error),
        };
        match outcome {
            Ok(true) => {}
            Ok(false) => self.snapshotter.remove(&key).await?,
            Err(error) => {
                if let Err(left) = self.snapshotter.remove(&key).await {
                    let message = format!("the snapshot {key:?} of a failed unpack stays: {left}");
                    self.progress.warn(&message);
                }
                return Err(error);
            }
        }
        note(self.store, &descriptor, &diff_id, self.progress.as_ref()).await;
        Ok(())
    }

    async fn apply(&self, layer: Layer, mounts: &[Mount]) -> Result<()> {
        let mounts = mounts.to_vec();
        let progress = Arc::clone(self.progress);
        let item = layer.descriptor.digest.to_string();
        pool::run(move || {
            progress.begin(&item, Some(layer.descriptor.size));
            let tree = Tree::at(cas_host::mount::open(&mounts)?.as_fd())?;
            let advance = |bytes| progress.advance(&item, bytes);
            // The commit syncs.
            let applied = flow::unpack_one(layer.source(), &tree, Sync::Relaxed, &advance)?;
            for warning in applied.warnings {
                progress.warn(&format!("{item}: {warning}"));
            }
            progress.end(&item);
            Ok(())
        })
        .await
    }

    /// Says that the snapshot lives by leases and references alone.
    fn labels(&self) -> Labels {
        Labels::from([(LEASE.to_owned(), self.guard.id().to_owned())])
    }

    /// Commits; false when somebody else has unpacked the same meanwhile.
    async fn commit(&self, key: &str, chain_id: &Digest) -> Result<bool> {
        let name = chain_id.to_string();
        let options = Commit {
            labels: self.labels(),
            ..Commit::default()
        };
        match self.snapshotter.commit(&name, key, options).await {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                match self.holds(chain_id).await? {
                    true => Ok(false),
                    false => Err(error),
                }
            }
            Err(error) => Err(error),
        }
    }
}
