//! Checkpoints in the store (`docs/decisions/0040`). The checkpoints of a layer are a blob, and a
//! label of the layer refers to it. So a collection keeps the blob for as long as the layer.
//!
//! The blob is stored under a lease before the label is set. After a kill in between, nothing
//! refers to the blob, and the next collection after the end of the lease removes it. After a full
//! disk or a failed sync, the layer has no label, or one whose blob is missing or damaged. Then the
//! layer is decompressed without checkpoints, which are recorded again meanwhile.

use bytes::Bytes;
use cas_core::content::Durability;
use cas_core::labels::GC_REF_CHECKPOINTS;
use cas_core::lease::{self, LeaseGuard};
use cas_core::progress::Progress;
use cas_core::sync::lock;
use cas_core::{ContentExt, Descriptor, Digest, Error, Labels, MediaType, Result, Store};

use super::unpacking::Unpacking;
use crate::codec::{CHECKPOINTS_SIZE, Checkpoints};
use crate::flow::LayerCheckpoints;

/// Returns the checkpoints of a layer that has these labels. The checkpoints are unknown if the
/// store does not have them, or if they are damaged or cannot be read.
pub(super) async fn find(store: &Store, labels: &Labels) -> LayerCheckpoints {
    let digest = labels
        .get(GC_REF_CHECKPOINTS)
        .and_then(|label| label.parse().ok());
    let known = match digest {
        None => None,
        Some(digest) => load(store, &digest).await.unwrap_or_else(|error| {
            tracing::debug!(%digest, "checkpoints of a layer cannot be used: {error}");
            None
        }),
    };
    LayerCheckpoints::new(known)
}

async fn load(store: &Store, digest: &Digest) -> Result<Option<Checkpoints>> {
    let Some(mut reader) = store.content.read_verified(digest).await? else {
        return Ok(None);
    };
    let size = reader.size();
    if size > CHECKPOINTS_SIZE {
        return Err(Error::out_of_range(format!(
            "the blob has {size} bytes; at most {CHECKPOINTS_SIZE} are allowed"
        )));
    }
    let mut bytes = Vec::with_capacity(size as usize);
    while let Some(piece) = reader.next().await? {
        bytes.extend_from_slice(&piece);
    }
    Checkpoints::decode(bytes.into()).map(Some)
}

/// Stores the checkpoints that were recorded while a layer was decompressed, if there are any and
/// the store has the layer. They only save time, so a failure is only reported as a warning, and
/// not at all if the store cannot be written.
pub(super) async fn keep(
    store: &Store,
    layer: &Descriptor,
    checkpoints: &LayerCheckpoints,
    progress: &dyn Progress,
) {
    let found = checkpoints.take();
    if found.spans > 0 {
        let (layer, spans) = (layer.digest, found.spans);
        tracing::debug!(%layer, spans, "a layer was decompressed in parallel");
    }
    let Some(recorded) = found.recorded else {
        return;
    };
    if let Err(error) = store_recorded(store, layer, &recorded).await
        && !lease::cannot_write(&error)
    {
        progress.warn(&format!(
            "the checkpoints of the layer {} could not be stored: {error}; the next unpack of the \
             layer will not be faster",
            layer.digest
        ));
    }
}

async fn store_recorded(store: &Store, layer: &Descriptor, recorded: &Checkpoints) -> Result<()> {
    if store.content.stat(&layer.digest).await?.is_none() {
        return Ok(());
    }
    let bytes = Bytes::from(recorded.encode());
    let blob = Descriptor::of(MediaType::LAYER_CHECKPOINTS, &bytes);
    let guard = LeaseGuard::begin(store, "checkpoints").await?;
    let stored = async {
        guard.put(&blob, bytes, Durability::Full).await?;
        let label = Labels::from([(GC_REF_CHECKPOINTS.to_owned(), blob.digest.to_string())]);
        lease::set_labels(store, layer, &label).await
    };
    let stored = stored.await;
    guard.finish_with(stored).await
}

impl Unpacking<'_> {
    /// Returns the checkpoints with which a layer is unpacked now. After the unpack,
    /// [`Self::keep_checkpoints`] stores those that were recorded.
    pub(super) fn begin_checkpoints(
        &self,
        index: usize,
        checkpoints: Option<LayerCheckpoints>,
    ) -> Option<LayerCheckpoints> {
        // A snapshotter that keeps the tar of the layer decompresses the layer only once.
        let keeps_tars = self.target.snapshotter.keeps_tars();
        let checkpoints = checkpoints.filter(|all| all.known.is_some() || !keeps_tars)?;
        lock(&self.checkpoints).insert(index, checkpoints.clone());
        Some(checkpoints)
    }

    /// Stores the checkpoints that were recorded while a layer was unpacked, as [`keep`] does. The
    /// layer must have been verified.
    pub(super) async fn keep_checkpoints(&self, index: usize) {
        let checkpoints = lock(&self.checkpoints).remove(&index);
        if let Some(checkpoints) = checkpoints {
            let layer = &self.layers[index].0;
            keep(self.store, layer, &checkpoints, self.progress.as_ref()).await;
        }
    }
}
