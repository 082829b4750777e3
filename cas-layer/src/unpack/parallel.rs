//! Unpacks layers in parallel: each layer is applied to a tree of its own, without its parents.
//! Then, from the lowest layer up, each tree is [resolved](Tree::resolve_onto) onto the layers
//! below it. Finally all trees are synced together, and their snapshots are committed. If a layer
//! cannot be applied without its parents, the layers below it are synced and committed, and the
//! layer is then applied on top of them. If the snapshotter keeps tars, the decompressed layer is
//! stored in a directory instead of being applied. This directory is then the tree of the layer.

use std::cmp::Reverse;
use std::fs::File;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::Arc;

use cas_core::background::shield;
use cas_core::error::{Context, ErrorKind};
use cas_core::snapshot::{Commit, Mount, Usage};
use cas_core::transfer::{LayerReader, QuotaLease};
use cas_core::{Digest, Error, Labels, Result, limit, pool};
use cas_host::{mount, overlay, syncfs};
use futures_util::{StreamExt, stream};

use super::active_snapshot::ActiveSnapshot;
use super::cancel::Waiter;
use super::kept_layer::KeptLayer;
use super::standalone::{StandaloneLayer, State};
use super::unpacking::Unpacking;
use super::{StoredLayer, first_cause, on_demand, stored_tar};
use crate::apply::{DeferredEffects, Tree};
use crate::codec::{self, Compression};
use crate::flow::{self, Accept, Confine, LayerCheckpoints, LayerSource};
use crate::tar::Reader;

/// Whether the progress of the bytes is reported here, or by the job that sends them here.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Reports {
    Bytes,
    WarningsOnly,
}

impl Unpacking<'_> {
    /// Prepares a snapshot without parent for each missing layer, before the disk is busy.
    pub(super) async fn prepare_standalone(&mut self) -> Result<()> {
        let keys: Vec<String> = (self.existing..self.chain.len())
            .map(|index| self.extract_key(index))
            .collect();
        self.pin_snapshots(&keys).await?;
        for key in keys {
            let snapshotter = self.target.snapshotter;
            let (snapshot, target) =
                ActiveSnapshot::prepare(snapshotter, key, None, self.labels()).await?;
            let layer = StandaloneLayer::new(snapshot, target)?;
            if self.device.is_none() {
                let tree = &layer.tree;
                let opened = File::open(tree).during("open directory", tree.display());
                self.device = Some(Arc::new(opened?));
            }
            self.standalone.push(Some(layer));
        }
        Ok(())
    }

    /// Writes the tables of the missing layers that are read on demand to the snapshots of these
    /// layers, which are then ready to be committed.
    ///
    /// # Errors
    /// `Unsupported` if the snapshotter does not keep layers as tars; errors of the file system.
    pub(super) async fn write_tables(&mut self) -> Result<()> {
        for index in self.existing..self.chain.len() {
            let Some(table) = self.table(index).cloned() else {
                continue;
            };
            let layer = self.standalone_layer(index)?;
            if !layer.is_tar {
                return Err(on_demand::not_supported());
            }
            let directory = layer.tree.clone();
            pool::run(move || on_demand::write(&table, &directory)).await?;
            *layer.state() = State::Applied(Some(DeferredEffects::default()));
        }
        Ok(())
    }

    pub(super) fn standalone_layer(&self, index: usize) -> Result<&StandaloneLayer> {
        let missing = index.checked_sub(self.existing);
        let layer = missing.and_then(|at| self.standalone.get(at)?.as_ref());
        layer.ok_or_else(|| Error::internal("a layer is unpacked twice; please report it"))
    }

    /// Marks a waiting layer of this digest as begun. Returns its index, or `None` if there is
    /// none.
    pub(super) fn claim(&self, digest: &Digest) -> Option<usize> {
        (self.existing..self.layers.len())
            .find(|index| self.layers[*index].0.digest == *digest && self.begin_layer(*index))
    }

    /// Returns whether a layer is not applied yet, or must be applied again on top of its parents.
    pub(super) fn must_apply(&self, index: usize) -> bool {
        self.standalone_layer(index)
            .is_ok_and(|layer| !matches!(*layer.state(), State::Applied(Some(_))))
    }

    /// Marks a layer as begun. Returns `false` if it is not waiting.
    fn begin_layer(&self, index: usize) -> bool {
        self.standalone_layer(index)
            .is_ok_and(StandaloneLayer::begin)
    }

    /// Applies a layer that [`Self::claim`] returned, while its bytes arrive. The sender of the
    /// bytes verifies the digest. If the bytes end early, the layer is applied later, from the
    /// store.
    ///
    /// # Errors
    /// As [`flow::stream`], and the errors of [`Tree::apply`].
    pub(super) async fn apply_incoming(
        &self,
        index: usize,
        mut bytes: LayerReader,
        lease: QuotaLease,
    ) -> Result<()> {
        let (descriptor, diff_id) = self.layers[index].clone();
        let checkpoints = self.begin_checkpoints(index, Some(LayerCheckpoints::default()));
        let source = move || {
            let compression = codec::detect(bytes.peek()?);
            // The diff ID of an uncompressed layer is its digest, which the sender verifies.
            let verified = compression == Compression::None && diff_id == descriptor.digest;
            Ok(LayerSource {
                compression,
                blob: Box::new(bytes),
                descriptor,
                diff_id: (!verified).then_some(diff_id),
                checkpoints,
            })
        };
        match self
            .apply_standalone(index, source, lease, Reports::WarningsOnly)
            .await
        {
            Err(error) if error.kind() == ErrorKind::Cancelled => {
                // The tree holds only a part of the layer.
                *self.standalone_layer(index)?.state() = State::Applied(None);
                Ok(())
            }
            applied => applied,
        }
    }

    /// Applies a layer that is in the store.
    async fn apply_stored(&self, index: usize) -> Result<()> {
        let lease = self.quota.acquire().await?;
        let mut layer = StoredLayer::open(self.store, self.layers[index].clone()).await?;
        layer.checkpoints = self.begin_checkpoints(index, layer.checkpoints);
        self.apply_standalone(index, || Ok(layer.source()), lease, Reports::Bytes)
            .await
    }

    async fn apply_standalone(
        &self,
        index: usize,
        source: impl FnOnce() -> Result<LayerSource<'static>> + Send + 'static,
        lease: QuotaLease,
        reports: Reports,
    ) -> Result<()> {
        let standalone = self.standalone_layer(index)?;
        let (path, is_tar) = (standalone.tree.clone(), standalone.is_tar);
        let accept = match is_tar {
            true => self.accept(),
            false => Accept::Tars,
        };
        let (progress, confine) = (Arc::clone(self.progress), self.target.confine);
        let cost = self.cost.clone();
        let (snapshot, kept) = (Arc::clone(&standalone.snapshot), standalone.kept.clone());
        let waiter = Waiter::new();
        let watch = waiter.watch();
        let layer = &self.layers[index].0;
        let (item, size) = (layer.digest.to_string(), layer.size);
        let applied = pool::apart("cas-unpack", move || {
            // Until this thread ends, the snapshot is not removed, and the layer keeps its place in
            // the quota.
            let _ended = (snapshot, lease);
            let shown = reports == Reports::Bytes;
            if shown {
                progress.begin(&item, Some(size));
            }
            let path = match &kept {
                Some(kept) => kept.make_tree(&path)?,
                None => path,
            };
            let tree = Tree::open(&path)?.with_cost(cost);
            tree.check_empty().during("unpack", path.display())?;
            let advance = |bytes| {
                if shown {
                    progress.advance(&item, bytes);
                }
            };
            let (mut deferred, mut warnings) = (None, Vec::new());
            let layers = vec![watch.layer(source()?)];
            let confine = Confine::if_set(confine, Confine::Below(tree.as_fd()));
            let streamed = flow::stream(layers, accept, confine, &advance, |_, bytes| {
                if is_tar {
                    deferred = Some(DeferredEffects::default());
                    return stored_tar::store(bytes, tree.as_fd());
                }
                let (applied, effects) = tree.apply_standalone(&mut Reader::new(bytes))?;
                // Without effects, the layer is applied again, and its warnings are reported then.
                if effects.is_some() {
                    warnings = applied.warnings;
                }
                deferred = effects;
                Ok(())
            });
            for warning in warnings {
                progress.warn(&format!("{item}: {warning}"));
            }
            let applied = streamed.map(|()| deferred);
            let recorded = kept.map_or(Ok(()), |kept| kept.record(&applied));
            let deferred = applied?;
            recorded?;
            if shown {
                progress.end(&item);
            }
            Ok(deferred)
        });
        let effects = applied.await?;
        *standalone.state() = State::Applied(effects);
        Ok(())
    }

    /// Applies the layers that are still waiting, and commits all.
    pub(super) async fn unpack_parallel(&mut self) -> Result<()> {
        let mut waiting: Vec<usize> = (self.existing..self.chain.len())
            .filter(|index| self.begin_layer(*index))
            .collect();
        // The largest layer is first. If it were last, other cores would be idle while it is
        // unpacked.
        waiting.sort_by_key(|index| Reverse(self.layers[*index].0.size));
        let this = &*self;
        let applied = stream::iter(waiting).map(|index| this.apply_stored(index));
        first_cause(applied.buffer_unordered(limit::LAYERS).collect().await)?;
        for index in (0..self.existing).chain(self.ready.iter().copied()) {
            self.verify_existing(index).await?;
        }
        self.commit_all().await
    }

    /// Resolves all layers onto their parents, lowest first, and commits them. A layer that needs
    /// its parents is applied again on top of them.
    async fn commit_all(&mut self) -> Result<()> {
        if self.standalone.is_empty() {
            return self.look_at_existing().await;
        }
        let mut resolved = Vec::new();
        let is_tar = self.standalone_layer(self.existing)?.is_tar;
        let mut committed_trees = match is_tar {
            true => Vec::new(),
            false => self.trees_of_lowest(self.existing).await?,
        };
        for index in self.existing..self.chain.len() {
            let layer = self.standalone_layer(index)?;
            let State::Applied(effects) = std::mem::replace(&mut *layer.state(), State::Begun)
            else {
                return Err(Error::internal(
                    "a layer was to be committed, but was not applied; please report it",
                ));
            };
            if let Some(kept) = layer.kept.clone().filter(|_| effects.is_some()) {
                let tree = layer.tree.clone();
                pool::run(move || kept.give_to(&tree)).await?;
            }
            let tree = layer.tree.clone();
            let is_resolved = match is_tar {
                // A stored tar has empty effects, because tars are merged later. `None` means that
                // only a part of the tar arrived.
                true => effects.is_some(),
                false => resolve(tree, effects, &resolved, &committed_trees).await?,
            };
            if is_resolved {
                resolved.push((index, layer.tree.clone()));
                continue;
            }
            self.commit_resolved(&mut resolved).await?;
            if let Some(layer) = self.standalone[index - self.existing].take() {
                layer.snapshot.remove().await?;
            }
            self.unpack_on_parent(index, false).await?;
            if !is_tar {
                committed_trees = self.trees_of_lowest(index + 1).await?;
            }
        }
        self.commit_resolved(&mut resolved).await?;
        if is_tar {
            // The snapshotter merges the tars now, so a layer that cannot be applied is found now.
            self.look_at(self.chain.len() - 1).await?;
        }
        Ok(())
    }

    /// Makes a view of the topmost layer of an image whose layers are all committed, if the
    /// snapshotter keeps tars and no record states that the image was unpacked before. Without the
    /// record, an earlier unpack may have committed layers that cannot be merged, or may have been
    /// killed before it made a view of them.
    async fn look_at_existing(&self) -> Result<()> {
        if let Some(top) = self.chain.len().checked_sub(1)
            && self.target.snapshotter.keeps_tars()
            && !self.is_recorded().await?
        {
            self.look_at(top).await?;
        }
        Ok(())
    }

    /// Makes a view of a committed layer and removes the view again. Returns the mounts of the
    /// view. If the snapshotter cannot merge the layers, the error names the topmost one, because
    /// the snapshotter knows no digests of layers.
    async fn look_at(&self, index: usize) -> Result<Vec<Mount>> {
        let (snapshotter, key) = (Arc::clone(self.target.snapshotter), self.look.clone());
        let (top, labels) = (self.chain[index].to_string(), self.labels());
        let mounts = shield(async move {
            let mounts = snapshotter.view(&key, Some(&top), labels).await?;
            snapshotter.remove(&key).await?;
            Ok::<_, Error>(mounts)
        });
        let blob = self.layers[index].0.digest;
        let named = |error: Error| error.within(format_args!("the layers up to {blob}"));
        mounts.await.map_err(named)
    }

    /// Returns the trees of the lowest `count` layers, which are committed, topmost first.
    async fn trees_of_lowest(&self, count: usize) -> Result<Vec<PathBuf>> {
        let Some(top) = count.checked_sub(1) else {
            return Ok(Vec::new());
        };
        let mut trees = Vec::new();
        for mount in self.look_at(top).await? {
            match mount {
                Mount::Bind { source, .. } => trees.push(source),
                Mount::Overlay { lower, .. } => trees.extend(lower),
                other => return Err(other.unsupported()),
            }
        }
        Ok(trees)
    }

    async fn measure(&self, resolved: &[(usize, PathBuf)]) -> Result<Vec<Usage>> {
        let mut usages = Vec::with_capacity(resolved.len());
        for (index, _) in resolved {
            let key = self.standalone_layer(*index)?.snapshot.key();
            usages.push(self.target.snapshotter.measure(key).await?);
        }
        Ok(usages)
    }

    /// Syncs and commits the layers that are resolved onto their parents.
    async fn commit_resolved(&mut self, resolved: &mut Vec<(usize, PathBuf)>) -> Result<()> {
        let Some(device) = self.device.clone().filter(|_| !resolved.is_empty()) else {
            return Ok(());
        };
        let synced = pool::run(move || syncfs(&*device));
        // The sync leaves a core idle, so the trees are measured meanwhile.
        let (synced, usages) = tokio::join!(synced, self.measure(resolved));
        if synced.is_err() {
            // What other layers of the job have written may be lost, too.
            self.end_job(KeptLayer::end_job).await;
            self.kept = None;
        }
        synced?;
        for ((index, _), usage) in resolved.drain(..).zip(usages?) {
            let parent = index.checked_sub(1);
            let options = Commit {
                labels: Labels::new(),
                parent: parent.map(|parent| self.chain[parent].to_string()),
                synced: true,
                usage: Some(usage),
            };
            let snapshot = Arc::clone(&self.standalone_layer(index)?.snapshot);
            self.commit(index, &snapshot, options).await?;
            self.standalone[index - self.existing] = None;
        }
        Ok(())
    }
}

/// Resolves a standalone tree onto the layers below it: the `resolved` ones, lowest first, on top
/// of the `committed_trees`. Returns `false` if the layer needs its parents.
async fn resolve(
    tree: PathBuf,
    effects: Option<DeferredEffects>,
    resolved: &[(usize, PathBuf)],
    committed_trees: &[PathBuf],
) -> Result<bool> {
    let Some(effects) = effects else {
        return Ok(false);
    };
    let parents = resolved.iter().rev().map(|(_, tree)| tree);
    let parents = overlay::stack(parents.chain(committed_trees).cloned().collect())?;
    pool::run(move || {
        let parents = match parents {
            Some(parents) => Some(Tree::at(mount::open(&[parents])?.as_fd())?),
            None => None,
        };
        Tree::open(&tree)?.resolve_onto(parents.as_ref(), &effects)
    })
    .await
}
