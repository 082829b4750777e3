//! Decides which layers of an image are fetched, which of them are stored, and which are applied.

use cas_core::error::ErrorKind;
use cas_core::labels::VERIFIED_LAYER;
use cas_core::snapshot::{Condition, Depth};
use cas_core::transfer::Want;
use cas_core::{Descriptor, Digest, Labels, Result, Snapshotter, Store};

use super::is_diff_id_known;
use super::unpacking::Unpacking;

/// The beginning of the key of a back reference to a blob.
const BACK_REF: &str = "containerd.io/gc.bref.content.";

/// The key of a back reference ends with this number of digits of the digest that it refers to.
const SHORT: usize = 16;

/// Sets a label of the snapshot `chain_id` by which the blob `keeper` keeps the snapshot. The label
/// is not in the records of the store, so it keeps the snapshot even if these records are lost.
///
/// # Errors
/// `NotFound` if the snapshot does not exist; `InvalidArgument` if too many stored blobs keep the
/// snapshot, or if it has too many other labels; errors of the store and of the snapshotter.
pub(crate) async fn refer_back(
    store: &Store,
    snapshotter: &dyn Snapshotter,
    chain_id: &Digest,
    keeper: &Digest,
) -> Result<()> {
    let key = format!("{BACK_REF}{}", &keeper.hex()[..SHORT]);
    let path = format!("labels.{key}");
    let label = Labels::from([(key, keeper.to_string())]);
    let (snapshot, paths) = (chain_id.to_string(), [path.as_str()]);
    let updated = snapshotter.update(&snapshot, label.clone(), &paths).await;
    match updated {
        Err(error) if error.kind() == ErrorKind::InvalidArgument => {
            remove_stale(store, snapshotter, &snapshot).await?;
            let updated = snapshotter.update(&snapshot, label, &paths).await;
            updated.map(drop)
        }
        updated => updated.map(drop),
    }
}

/// Removes the labels by which blobs that are no longer stored have kept a snapshot.
async fn remove_stale(store: &Store, snapshotter: &dyn Snapshotter, snapshot: &str) -> Result<()> {
    let found = snapshotter.stat(snapshot).await?;
    let mut stale = Labels::new();
    for (key, value) in found.map(|info| info.labels).unwrap_or_default() {
        let keeper: Option<Digest> = value.parse().ok();
        if let Some(keeper) = keeper.filter(|_| key.starts_with(BACK_REF))
            && store.content.stat(&keeper).await?.is_none()
        {
            stale.insert(key, String::new());
        }
    }
    let paths: Vec<String> = stale.keys().map(|key| format!("labels.{key}")).collect();
    let paths: Vec<&str> = paths.iter().map(String::as_str).collect();
    // Without a field path, an update replaces all labels.
    if !paths.is_empty() {
        snapshotter.update(snapshot, stale, &paths).await?;
    }
    Ok(())
}

impl Unpacking<'_> {
    /// If the store may lack layers of the image, makes the configuration keep the topmost snapshot
    /// even if the records of the store are lost. The snapshots may have the only copy of the
    /// layers, or refer to ready layers that were not fetched. Does nothing if a layer is read on
    /// demand.
    pub(super) async fn keep_without_records(&self, top: &Digest) -> Result<()> {
        let may_lack_layers = self.discards || self.target.only_tars || !self.copied.is_empty();
        let mut layers = 0..self.layers.len();
        if !may_lack_layers || layers.any(|index| self.reads_on_demand(index)) {
            return Ok(());
        }
        let snapshotter = &**self.target.snapshotter;
        match refer_back(self.store, snapshotter, top, &self.config.digest).await {
            Err(error) if error.kind() == ErrorKind::InvalidArgument => {
                self.progress.warn(&format!(
                    "a collection will remove the layers of the image if the records of the store \
                     are lost: {error}"
                ));
                Ok(())
            }
            kept => kept,
        }
    }

    /// Finds the layers that have a snapshot, and whose bytes are known to have their diff ID. If
    /// the bytes of a layer are not known to have its diff ID, the snapshot may have been made of
    /// another layer. A layer whose snapshot refers to a ready layer counts as known, because ready
    /// layers are used by their diff IDs alone. Leaves out a layer whose snapshot has lost or
    /// changed files, unless layers are discarded.
    pub(super) async fn find_verified(&mut self) -> Result<()> {
        for index in 0..self.existing {
            let (layer, diff_id) = &self.layers[index];
            let is_known = layer.digest == *diff_id
                || is_diff_id_known(self.store, layer, diff_id).await?
                || self.is_made_of(index).await?
                || self.refers_to_ready_layer(index).await?;
            if is_known && (self.discards || self.has_sound_files(index).await?) {
                self.verified.insert(index);
            }
        }
        Ok(())
    }

    /// Returns whether the snapshot of a layer has a label with the digest of the layer, and so was
    /// made of these bytes.
    async fn is_made_of(&self, index: usize) -> Result<bool> {
        let key = self.chain[index].to_string();
        let found = self.target.snapshotter.stat(&key).await?;
        let label = found.and_then(|mut info| info.labels.remove(VERIFIED_LAYER));
        Ok(label.is_some_and(|label| label == self.layers[index].0.digest.to_string()))
    }

    /// Returns whether the files of a layer's snapshot have the attributes with which they were
    /// committed. Does not read the bytes of files.
    async fn has_sound_files(&self, index: usize) -> Result<bool> {
        let key = self.chain[index].to_string();
        let found = self.target.snapshotter.check(&key, Depth::Files).await?;
        Ok(found == Condition::Sound)
    }

    /// Returns what to do with a layer:
    ///
    /// - A layer that is read on demand is not fetched.
    /// - If layers are discarded, a layer that must be applied is fed to the unpacker and not
    ///   stored. A layer that has a snapshot, or that a job has unpacked, is not fetched. There are
    ///   two exceptions. A layer is stored if it must be applied more than once. It is also stored
    ///   if its snapshot has lost its directory or may have been made of another layer.
    /// - If layers are not discarded, but snapshots keep the only copy, a layer that must be
    ///   applied is stored and fed. A layer that has a snapshot, or that a job has unpacked, is not
    ///   fetched. There is one exception. A layer is stored if its snapshot has lost or changed
    ///   files, or may have been made of another layer.
    /// - Otherwise, each layer is stored and fed.
    pub(super) fn want(&self, digest: &Digest) -> Want {
        if self.is_on_demand(digest) {
            return Want::Nothing;
        }
        if !self.discards && !self.target.only_tars {
            return Want::StoreAndFeed;
        }
        let (mut applied, mut is_known, mut is_stored) = (0, false, false);
        for index in 0..self.layers.len() {
            if self.layers[index].0.digest != *digest {
                continue;
            }
            is_known = true;
            if index >= self.existing {
                applied += usize::from(self.must_apply(index));
            } else {
                is_stored |= !self.verified.contains(&index) || self.lost.contains(&index);
            }
        }
        match applied {
            0 if is_known && !is_stored => Want::Nothing,
            0 => Want::Store,
            1 if !is_stored && self.discards => Want::Feed,
            _ => Want::StoreAndFeed,
        }
    }

    /// Returns whether the image has layers of this digest, and all of them are read on demand.
    fn is_on_demand(&self, digest: &Digest) -> bool {
        let layers = self.layers.iter().enumerate();
        let mut layers = layers
            .filter(|(_, (layer, _))| layer.digest == *digest)
            .peekable();
        layers.peek().is_some() && layers.all(|(index, _)| self.table(index).is_some())
    }

    /// If layers are discarded, returns the layers that must still be applied, or must be applied
    /// again on top of their parents. They are read from the store for this.
    pub(super) fn needs(&self) -> Vec<Descriptor> {
        let missing = self.existing..self.layers.len();
        let again = missing.filter(|index| self.discards && self.must_apply(*index));
        again.map(|index| self.layers[index].0.clone()).collect()
    }
}
