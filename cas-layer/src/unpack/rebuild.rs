//! Unpacks layers again if their snapshots have lost their files.

use std::sync::Arc;

use cas_core::progress::Progress;
use cas_core::snapshot::{Condition, Depth, LayerTarget, SnapshotKind};
use cas_core::{Digest, Error, ErrorKind, Manifest, Result, Store, pool};

use super::unpacking::{Target, Unpacking};
use super::verified_tar::has_verified_tar;
use super::{layers_with_diff_ids, on_demand, stored_tar};

/// One of the layers that [`chain_of`] returns.
pub struct ChainLayer {
    /// The chain ID of the layer, which is the name of its snapshot.
    pub chain_id: Digest,
    /// Whether the layer is read on demand. If so, its snapshot has a table of contents instead of
    /// the layer.
    pub is_on_demand: bool,
}

/// Returns the layers of an image with their chain IDs, lowest first. The chain IDs are those that
/// [`verified_chain_ids`](super::verified_chain_ids) returns if all layers were verified. This
/// function does not check that the layers were verified.
///
/// # Errors
/// As [`verified_chain_ids`](super::verified_chain_ids).
pub async fn chain_of(store: &Store, manifest: &Manifest) -> Result<Vec<ChainLayer>> {
    let layers = layers_with_diff_ids(store, manifest).await?;
    let recorded = on_demand::recorded(store, manifest, &layers).await?;
    let chain = on_demand::recorded_chain(&layers, &recorded).into_iter();
    let layers = chain.enumerate().map(|(index, chain_id)| ChainLayer {
        chain_id,
        is_on_demand: recorded.get(index).is_some_and(Option::is_some),
    });
    Ok(layers.collect())
}

/// Unpacks the layer that `chain_id` identifies in the image of `manifest`, and gives its files to
/// the committed snapshot whose name is `chain_id`. If the layer is read on demand, its table of
/// contents is fetched instead. If the snapshot has a tar with the right bytes, this tar is copied
/// instead, and the store need not have the layer. The snapshots of all lower layers must be
/// [sound](Condition::Sound). Existing mounts of the snapshot keep its old files.
///
/// # Errors
/// As [`to_snapshots`](super::to_snapshots); `NotFound` also if the image does not have the layer.
pub async fn rebuild(
    store: &Store,
    target: Target<'_>,
    manifest: &Manifest,
    chain_id: &Digest,
    progress: &Arc<dyn Progress>,
) -> Result<()> {
    let mut unpacking = Unpacking::new(store, target, manifest, progress).await?;
    let outcome = match unpacking.pin(manifest).await {
        Ok(()) => unpacking.rebuild(chain_id).await,
        Err(error) => Err(error),
    };
    unpacking.end(outcome).await
}

impl Unpacking<'_> {
    async fn rebuild(&self, chain_id: &Digest) -> Result<()> {
        let index = self.chain.iter().position(|known| known == chain_id);
        let index = index.ok_or_else(|| {
            Error::not_found("the image has no layer with this chain ID; name another image")
                .subject(chain_id)
        })?;
        let _lock = self.lock(chain_id).await?;
        self.unpack_on_parent(index, true).await
    }

    /// Finds the committed snapshots whose directories are missing or were replaced, or whose
    /// tables of contents are damaged, and makes their files again. Leaves out snapshots whose
    /// layers are neither in the store nor read on demand, and returns the indexes of these layers.
    pub(super) async fn rebuild_missing(&self) -> Result<Vec<usize>> {
        let mut lost = Vec::new();
        for (index, chain_id) in self.chain.iter().enumerate() {
            let _lock = match self.is_lost(index).await? {
                true => self.lock(chain_id).await?,
                false => continue,
            };
            if self.is_lost(index).await? {
                let short = chain_id.short();
                let is_ready = self.refers_to_ready_layer(index).await?;
                let message = if is_ready {
                    format!(
                        "the ready layer of the snapshot {short} is lost or was changed; the \
                         layer is looked up again, and unpacked if no ready layer is found"
                    )
                } else if self.reads_on_demand(index) {
                    format!(
                        "the snapshot {short} is lost or was changed; the table of contents of its \
                         layer is fetched again"
                    )
                } else if self.is_stored(index).await? {
                    format!(
                        "the directory of the snapshot {short} is missing, or was replaced or \
                         changed; its layer is unpacked again"
                    )
                } else {
                    // The layer may arrive during this job, and is then unpacked at the end.
                    lost.push(index);
                    continue;
                };
                self.progress.warn(&message);
                match self.unpack_on_parent(index, true).await {
                    Err(error) if is_ready && error.kind() == ErrorKind::NotFound => {
                        lost.push(index);
                    }
                    rebuilt => rebuilt?,
                }
            }
        }
        Ok(lost)
    }

    /// Copies the tar that the damaged snapshot of a layer has to `target`, if the bytes of the tar
    /// are right. The damage is then only in its attributes or beside it. Returns whether the tar
    /// was copied.
    pub(super) async fn copy_own_tar(&self, index: usize, target: &LayerTarget) -> Result<bool> {
        let LayerTarget::Tar(directory) = target else {
            return Ok(false);
        };
        let key = self.chain[index].to_string();
        // An error is a part of the damage: for example, something else is in the place of the tar.
        let Ok(Some(tar)) = self.target.snapshotter.open_tar(&key).await else {
            return Ok(false);
        };
        let (diff_id, directory) = (self.layers[index].1, directory.clone());
        pool::run(move || stored_tar::copy(&tar, &diff_id, &directory)).await
    }

    async fn is_stored(&self, index: usize) -> Result<bool> {
        let layer = &self.layers[index].0.digest;
        Ok(self.store.content.stat(layer).await?.is_some())
    }

    /// Returns whether the directory of a committed snapshot is missing, or is not a directory. If
    /// the layer is read on demand or kept only as a tar, also returns true if the few files of the
    /// snapshot were changed, and if the snapshot refers to a ready layer, also if the ready layer
    /// was. If the store has the layer, or this is a pull or an import, which may bring it, also
    /// verifies the bytes of a tar that is the only copy otherwise.
    async fn is_lost(&self, index: usize) -> Result<bool> {
        let (snapshotter, key) = (self.target.snapshotter, self.chain[index].to_string());
        let found = snapshotter.stat(&key).await?;
        if found.is_none_or(|info| info.kind != SnapshotKind::Committed) {
            return Ok(false);
        }
        let has_few_files = self.target.only_tars
            || self.reads_on_demand(index)
            || self.refers_to_ready_layer(index).await?;
        let depth = match has_few_files {
            true => Depth::Files,
            false => Depth::Directory,
        };
        if snapshotter.check(&key, depth).await? != Condition::Sound {
            return Ok(true);
        }
        let can_heal = self.whole || self.is_stored(index).await?;
        let verifies = self.target.only_tars && can_heal;
        Ok(verifies && !has_verified_tar(&**snapshotter, &key).await?)
    }
}
