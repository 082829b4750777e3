//! Ready layers, to which snapshots refer instead of having the bytes of their layers.

use cas_core::Result;
use futures_util::{StreamExt, TryStreamExt, stream};

use super::standalone::State;
use super::unpacking::Unpacking;
use crate::apply::DeferredEffects;

/// How many ready layers of an image are verified at the same time.
const AT_ONCE: usize = 3;

impl Unpacking<'_> {
    /// Makes the snapshots of missing layers refer to ready layers, if the snapshotter finds them.
    /// These layers then need not be unpacked.
    pub(super) async fn use_ready_layers(&mut self) -> Result<()> {
        let this = &*self;
        let missing = stream::iter(this.existing..this.chain.len());
        let used = missing.map(|index| this.use_for_missing(index));
        let used: Vec<Option<usize>> = used.buffer_unordered(AT_ONCE).try_collect().await?;
        self.ready = used.into_iter().flatten().collect();
        Ok(())
    }

    /// Returns the index if the new snapshot of this layer refers to a ready layer.
    async fn use_for_missing(&self, index: usize) -> Result<Option<usize>> {
        let layer = self.standalone_layer(index)?;
        if !layer.is_tar || !self.use_ready_layer(index, layer.snapshot.key()).await? {
            return Ok(None);
        }
        *layer.state() = State::Applied(Some(DeferredEffects::default()));
        Ok(Some(index))
    }

    /// Makes the active snapshot `key` refer to a ready layer in place of the layer `index`.
    /// Returns whether it does. Layers that registries do not distribute, and layers that are read
    /// on demand, are never replaced.
    pub(super) async fn use_ready_layer(&self, index: usize, key: &str) -> Result<bool> {
        let (layer, diff_id) = &self.layers[index];
        if layer.media_type.is_non_distributable() || self.table(index).is_some() {
            return Ok(false);
        }
        let snapshotter = self.target.snapshotter;
        snapshotter.use_ready_layer(key, layer, diff_id).await
    }

    /// Returns whether the committed snapshot of a layer refers to a ready layer.
    pub(super) async fn refers_to_ready_layer(&self, index: usize) -> Result<bool> {
        let key = self.chain[index].to_string();
        self.target.snapshotter.has_ready_layer(&key).await
    }
}
