//! Unpacks layers one by one: each is applied on top of its parent, and committed.

use std::io::BufRead;
use std::os::fd::AsFd;
use std::sync::Arc;

use cas_core::blob::name_damaged;
use cas_core::content::Durability;
use cas_core::snapshot::{Commit, LayerTarget};
use cas_core::transfer::QuotaLease;
use cas_core::{Result, pool};

use super::active_snapshot::ActiveSnapshot;
use super::cancel::Waiter;
use super::on_demand::{self, LayerTable};
use super::unpacking::Unpacking;
use super::{StoredLayer, stored_tar};
use crate::apply::Tree;
use crate::flow::{self, Confine};

impl Unpacking<'_> {
    /// Unpacks each missing layer on top of its parent.
    pub(super) async fn unpack_serial(&self) -> Result<()> {
        let existing = self.count_committed().await?;
        for index in 0..existing {
            self.verify_existing(index).await?;
        }
        for index in existing..self.chain.len() {
            let chain_id = &self.chain[index];
            let _lock = self.lock(chain_id).await?;
            if self.pin_committed(chain_id).await? {
                self.verify_existing(index).await?;
            } else {
                self.unpack_on_parent(index, false).await?;
            }
        }
        Ok(())
    }

    /// Applies a layer on top of its committed parent, and commits it. If `is_rebuilt` is set, its
    /// snapshot is committed already, and gets the new files, or a reference to a ready layer. A
    /// layer that is read on demand is not applied: its snapshot gets its table.
    pub(super) async fn unpack_on_parent(&self, index: usize, is_rebuilt: bool) -> Result<()> {
        let lease = self.quota.acquire().await?;
        let table = self.find_table(index).await?;
        let key = self.extract_key(index);
        self.pin_snapshots(std::slice::from_ref(&key)).await?;
        let parent = index.checked_sub(1);
        let parent = parent.map(|below| self.chain[below].to_string());
        let snapshotter = self.target.snapshotter;
        let (snapshot, target) =
            ActiveSnapshot::prepare(snapshotter, key, parent, self.labels()).await?;
        let filled = async {
            if let Some(table) = table {
                return write(table, target).await;
            }
            if is_rebuilt && self.use_ready_layer(index, snapshot.key()).await? {
                return Ok(());
            }
            if is_rebuilt && self.copy_own_tar(index, &target).await? {
                return Ok(());
            }
            let mut layer = StoredLayer::open(self.store, self.layers[index].clone()).await?;
            layer.checkpoints = self.begin_checkpoints(index, layer.checkpoints);
            self.apply(layer, &snapshot, target, lease).await
        };
        let layer = std::slice::from_ref(&self.layers[index].0);
        let filled = name_damaged(self.store, layer, filled.await).await;
        let outcome = match filled {
            Ok(()) if is_rebuilt => {
                self.keep_checkpoints(index).await;
                snapshot.replace(self.chain[index].to_string()).await
            }
            Ok(()) => self.commit(index, &snapshot, Commit::default()).await,
            Err(error) => Err(error),
        };
        if outcome.is_err() {
            self.remove_unfinished(&snapshot).await;
        }
        outcome
    }

    async fn apply(
        &self,
        layer: StoredLayer,
        snapshot: &Arc<ActiveSnapshot>,
        target: LayerTarget,
        lease: QuotaLease,
    ) -> Result<()> {
        let (snapshot, progress) = (Arc::clone(snapshot), Arc::clone(self.progress));
        let waiter = Waiter::new();
        let watch = waiter.watch();
        let item = layer.descriptor.digest.to_string();
        let (accept, confine) = (self.accept(), self.target.confine);
        let cost = self.cost.clone();
        pool::apart("cas-unpack", move || {
            // Until this thread ends, the snapshot is not removed, and the layer keeps its place in
            // the quota.
            let _ended = (snapshot, lease);
            progress.begin(&item, Some(layer.descriptor.size));
            let advance = |bytes| progress.advance(&item, bytes);
            let source = watch.layer(layer.source());
            // Nothing is synced here: the commit, or the replacement of the old files, syncs.
            let warnings = match target {
                LayerTarget::Tree(mounts) => {
                    let tree = Tree::at(cas_host::mount::open(&mounts)?.as_fd())?.with_cost(cost);
                    let relaxed = Durability::Relaxed;
                    flow::unpack_one(source, &tree, confine, relaxed, &advance)?.warnings
                }
                LayerTarget::Tar(directory) => {
                    let tree = Tree::open(&directory)?;
                    let store = |_, bytes: &mut dyn BufRead| stored_tar::store(bytes, tree.as_fd());
                    let confine = Confine::if_set(confine, Confine::Below(tree.as_fd()));
                    flow::stream(vec![source], accept, confine, &advance, store)?;
                    Vec::new()
                }
                _ => return Err(stored_tar::unknown_target()),
            };
            for warning in warnings {
                progress.warn(&format!("{item}: {warning}"));
            }
            progress.end(&item);
            Ok(())
        })
        .await
    }
}

/// Writes a table to the snapshot of its layer.
async fn write(table: LayerTable, target: LayerTarget) -> Result<()> {
    match target {
        LayerTarget::Tar(directory) => {
            pool::run(move || on_demand::write(&table, &directory)).await
        }
        _ => Err(on_demand::not_supported()),
    }
}
