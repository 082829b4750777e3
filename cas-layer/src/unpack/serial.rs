//! Unpacks layers one by one: each is applied on top of its parent, and committed.

use std::os::fd::AsFd;
use std::sync::Arc;

use cas_core::content::Durability;
use cas_core::snapshot::{Commit, Mount};
use cas_core::{Result, pool};

use super::StoredLayer;
use super::unpacking::Unpacking;
use crate::apply::Tree;
use crate::flow;

impl Unpacking<'_> {
    /// Unpacks each missing layer on top of its parent.
    pub(super) async fn unpack_serial(&self) -> Result<()> {
        for index in self.count_committed().await?..self.chain.len() {
            let chain_id = &self.chain[index];
            let _lock = self.lock(chain_id).await?;
            if !self.pin_committed(chain_id).await? {
                self.unpack_on_parent(index).await?;
            }
        }
        Ok(())
    }

    /// Applies a layer on top of its parent, which is committed, and commits it.
    pub(super) async fn unpack_on_parent(&self, index: usize) -> Result<()> {
        let layer = StoredLayer::open(self.store, self.layers[index].clone()).await?;
        let key = self.extract_key(index);
        self.pin_snapshots(std::slice::from_ref(&key)).await?;
        let parent = index.checked_sub(1);
        let parent = parent.map(|below| self.chain[below].to_string());
        let prepared = self
            .target
            .snapshotter
            .prepare(&key, parent.as_deref(), self.labels());
        let mounts = prepared.await?;
        let outcome = match self.apply(layer, &mounts).await {
            Ok(()) => self.commit(index, &key, Commit::default()).await,
            Err(error) => Err(error),
        };
        if outcome.is_err() {
            self.remove_unfinished(&key).await;
        }
        outcome
    }

    async fn apply(&self, layer: StoredLayer, mounts: &[Mount]) -> Result<()> {
        let (mounts, progress) = (mounts.to_vec(), Arc::clone(self.progress));
        let item = layer.descriptor.digest.to_string();
        pool::apart("cas-unpack", move || {
            progress.begin(&item, Some(layer.descriptor.size));
            let tree = Tree::at(cas_host::mount::open(&mounts)?.as_fd())?;
            let advance = |bytes| progress.advance(&item, bytes);
            // The commit syncs.
            let applied = flow::unpack_one(layer.source(), &tree, Durability::Relaxed, &advance)?;
            for warning in applied.warnings {
                progress.warn(&format!("{item}: {warning}"));
            }
            progress.end(&item);
            Ok(())
        })
        .await
    }
}
