//! Tars of layers in directories of a snapshotter that no record names.

use std::collections::BTreeMap;

use super::snapshots::no_rebuilder;
use super::{Checker, Problem};
use crate::digest::Digest;
use crate::error::Result;
use crate::gc::{StrayTars, keep_stray_tars};
use crate::records::BlobRecord;
use crate::snapshot::Snapshotter;

impl Checker<'_> {
    /// Finds the layers whose snapshots lack a sound record, and whose tars the first snapshotter
    /// of the check still has, if it keeps tars. The images do not need the blobs of these layers.
    pub(super) async fn find_stray_tars(&mut self) -> Result<()> {
        if let Some(snapshotter) = self.keeper() {
            let images = keep_stray_tars(self.store, snapshotter).await?;
            let layers = images.iter().flat_map(|image| image.tars.keys());
            self.stray = layers.copied().collect();
        }
        Ok(())
    }

    /// Reports tars that may be the only copies of layers, and that are in directories without a
    /// record. A repair makes the snapshots of their images again from copies of these tars. The
    /// directories then count as leftovers.
    pub(super) async fn check_stray_tars(&mut self, snapshotter: &dyn Snapshotter) -> Result<()> {
        let images = keep_stray_tars(self.store, snapshotter).await?;
        if images.is_empty() {
            return Ok(());
        }
        let repairs = self.options.repair.is_some();
        let (mut found, mut errors) = (BTreeMap::new(), BTreeMap::new());
        for image in &images {
            found.extend(image.tars.iter().map(|(layer, tar)| (tar, layer)));
            if let Some(Err(error)) = self.make_snapshots(snapshotter, image).await {
                let why = error.to_string();
                errors.extend(image.tars.values().map(|tar| (tar, why.clone())));
            }
        }
        let mut left = Vec::new();
        if repairs {
            let images = keep_stray_tars(self.store, snapshotter).await?;
            left = images.into_iter().flat_map(|one| one.tars).collect();
        }
        for (tar, layer) in found {
            let is_left = left.iter().any(|(_, other)| other == tar);
            let outcome = match (repairs, errors.get(tar)) {
                (false, _) => "a repair makes the snapshot again from the tar".to_owned(),
                (true, _) if !is_left => "the snapshot was made again from the tar".to_owned(),
                (true, Some(why)) => format!(
                    "the snapshot could not be made again: {why}; the tar stays as long as an \
                     image needs it"
                ),
                (true, None) => "an image still needs the tar; run the repair again".to_owned(),
            };
            let detail = format!(
                "the record of the snapshot with this tar is lost or damaged, and the tar may be \
                 the only copy of the layer {layer}; {outcome}"
            );
            let is_repaired = repairs && !is_left;
            self.add(Problem::SnapshotLeft, tar.display(), detail, is_repaired);
        }
        Ok(())
    }

    /// Makes the snapshots of an image again. Returns `None` if the check does not repair.
    async fn make_snapshots(
        &self,
        snapshotter: &dyn Snapshotter,
        image: &StrayTars,
    ) -> Option<Result<()>> {
        let repair = self.options.repair.as_ref()?;
        let Some(rebuilder) = repair.rebuilder else {
            return Some(Err(no_rebuilder()));
        };
        let record = match self.store.blobs().load_sound(&image.own).await {
            Ok(record) => record,
            Err(error) => return Some(Err(error)),
        };
        let tars = image.tars.iter();
        let tars = tars.filter(|(layer, _)| was_unpacked(record.as_ref(), layer));
        let tars = tars.map(|(layer, tar)| (*layer, tar.clone())).collect();
        Some(rebuilder.restore(snapshotter, &image.manifest, tars).await)
    }
}

/// Returns whether a layer that the store does not have may have been unpacked. Only then do its
/// bytes have the diff ID that the configuration states. `manifest` is the record of the manifest,
/// or `None` if this record was lost.
fn was_unpacked(manifest: Option<&BlobRecord>, layer: &Digest) -> bool {
    manifest.is_none_or(|record| record.children.is_empty() || record.absent.contains(layer))
}
