//! Layers one by one: each is applied on top of its parent, and committed.

use std::os::fd::AsFd;
use std::sync::Arc;

use cas_core::snapshot::{Commit, Mount};
use cas_core::{Result, pool};

use super::Layer;
use super::unpacking::Unpacking;
use crate::apply::Tree;
use crate::flow::{self, Sync};

impl Unpacking<'_> {
    /// Each layer on its parent.
    pub(super) async fn one_by_one(&self) -> Result<()> {
        for place in self.committed().await?..self.chain.len() {
            let chain_id = &self.chain[place];
            let _turn = self.turn(chain_id).await?;
            if !self.holds(chain_id).await? {
                self.on_parent(place).await?;
            }
        }
        Ok(())
    }

    /// Applies a layer on top of its parent, which is committed, and commits it.
    pub(super) async fn on_parent(&self, place: usize) -> Result<()> {
        let layer = Layer::open(self.store, self.layers[place].clone()).await?;
        let key = self.extract_key(place);
        self.hold_snapshots(std::slice::from_ref(&key)).await?;
        let parent = place.checked_sub(1);
        let parent = parent.map(|below| self.chain[below].to_string());
        let prepared = self
            .target
            .snapshotter
            .prepare(&key, parent.as_deref(), self.labels());
        let mounts = prepared.await?;
        let outcome = match self.apply(layer, &mounts).await {
            Ok(()) => self.commit(place, &key, Commit::default()).await,
            Err(error) => Err(error),
        };
        if outcome.is_err() {
            self.give_up(&key).await;
        }
        outcome
    }

    async fn apply(&self, layer: Layer, mounts: &[Mount]) -> Result<()> {
        let (mounts, progress) = (mounts.to_vec(), Arc::clone(self.progress));
        let item = layer.descriptor.digest.to_string();
        pool::apart("cas-unpack", move || {
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
}
