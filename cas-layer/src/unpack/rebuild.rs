//! Unpacks layers again if their snapshots have lost their files.

use std::sync::Arc;

use cas_core::progress::Progress;
use cas_core::snapshot::{Condition, Depth, SnapshotKind};
use cas_core::{Digest, Error, Manifest, Result, Store};

use super::unpacking::{Target, Unpacking};
use super::{layers_with_diff_ids, on_demand};

/// Returns the chain IDs of an image as [`verified_chain_ids`](super::verified_chain_ids) does, but
/// does not check that the layers were verified.
///
/// # Errors
/// As [`verified_chain_ids`](super::verified_chain_ids).
pub async fn chain_of(store: &Store, manifest: &Manifest) -> Result<Vec<Digest>> {
    let layers = layers_with_diff_ids(store, manifest).await?;
    on_demand::recorded_chain(store, manifest, &layers).await
}

/// Unpacks the layer that `chain_id` identifies in the image of `manifest`, and gives its files to
/// the committed snapshot whose name is `chain_id`. The snapshots below must be sound. Existing
/// mounts keep the old files.
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
            Error::not_found("the image does not have the layer; name another image")
                .subject(chain_id)
        })?;
        let _lock = self.lock(chain_id).await?;
        self.unpack_on_parent(index, true).await
    }

    /// Unpacks the layers of committed snapshots whose directories are missing. Returns the indexes
    /// of the layers that are not in the store.
    pub(super) async fn rebuild_missing(&self) -> Result<Vec<usize>> {
        let mut lost = Vec::new();
        for (index, chain_id) in self.chain.iter().enumerate() {
            let _lock = match self.is_lost(chain_id).await? {
                true => self.lock(chain_id).await?,
                false => continue,
            };
            if self.is_lost(chain_id).await? {
                // A layer that is not in the store yet may arrive during this job, and is then
                // unpacked at the end of the job.
                if self
                    .store
                    .content
                    .stat(&self.layers[index].0.digest)
                    .await?
                    .is_none()
                {
                    lost.push(index);
                    continue;
                }
                let short = chain_id.short();
                let message = format!(
                    "the directory of the snapshot {short} is missing or was replaced; its layer \
                     is unpacked again"
                );
                self.progress.warn(&message);
                self.unpack_on_parent(index, true).await?;
            }
        }
        Ok(lost)
    }

    /// Returns whether the directory of a committed snapshot is missing, or is not a directory.
    async fn is_lost(&self, chain_id: &Digest) -> Result<bool> {
        let (snapshotter, key) = (self.target.snapshotter, chain_id.to_string());
        let found = snapshotter.stat(&key).await?;
        if found.is_none_or(|info| info.kind != SnapshotKind::Committed) {
            return Ok(false);
        }
        Ok(snapshotter.check(&key, Depth::Directory).await? != Condition::Sound)
    }
}
