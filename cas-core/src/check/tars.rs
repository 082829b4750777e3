//! Layers of which the store has no blob because a snapshotter has them.

use std::collections::BTreeSet;

use super::{Checker, Problem, Use};
use crate::complete::{completeness, is_of_document};
use crate::descriptor::Descriptor;
use crate::digest::Digest;
use crate::dispatch;
use crate::error::Result;
use crate::gc::{committed, layers_of};
use crate::labels::{Labels, VERIFIED_LAYER, gc_ref_snapshot};
use crate::lease;
use crate::records::{BlobRecord, Packing};
use crate::snapshot::{Info, Snapshotter};

impl<'a> Checker<'a> {
    /// Returns the layers of a manifest that neither the store nor a snapshotter has, although the
    /// record of the manifest states that the snapshotter keeps their tars. Returns no layers if
    /// the first snapshotter of the check does not keep tars. A repair changes the record to state
    /// that the image needs the blobs of these layers. If a tar exists but is damaged, the check of
    /// its snapshot reports this.
    ///
    /// # Errors
    /// Errors of the store and of the snapshotters.
    pub(super) async fn lost_tars(
        &self,
        manifest: &Descriptor,
        record: &BlobRecord,
    ) -> Result<BTreeSet<Digest>> {
        let mut lost = BTreeSet::new();
        let Some(snapshotter) = self.keeper().filter(|_| !record.tars.is_empty()) else {
            return Ok(lost);
        };
        for (layer, chain_id) in self.layers(manifest).await? {
            if !record.is_tar(&layer) || self.store.content.stat(&layer).await?.is_some() {
                continue;
            }
            // A tar without a record is reported later, and a repair makes its snapshot again.
            if !self.stray.contains(&layer) && committed(snapshotter, &chain_id).await?.is_none() {
                lost.insert(layer);
            }
        }
        if !lost.is_empty() && self.options.repair.is_some() {
            let change = |found: Option<BlobRecord>| {
                let mut record = found.unwrap_or_else(|| record.clone());
                record.absent.retain(|layer| !lost.contains(layer));
                record.tars.retain(|layer, _| !lost.contains(layer));
                Ok(record)
            };
            self.store.blobs().update(&manifest.digest, change).await?;
        }
        Ok(lost)
    }

    /// Finds layers that a snapshotter has and the store does not need, if records of the image
    /// were lost. These are layers whose tars the snapshotter keeps, layers that were unpacked and
    /// not stored, and ready layers that were not fetched. Either the record of the manifest no
    /// longer lists them as absent, or the record of the configuration no longer has the label that
    /// keeps their snapshots. A repair adds the layers to the record of the manifest again, and
    /// sets the label again. `children` are the blobs that the manifest lists. Returns the new
    /// record of the manifest, or `None` if there are no such layers. A check that does not repair
    /// returns the record that a repair would write.
    ///
    /// # Errors
    /// Errors of the store and of the snapshotters.
    pub(super) async fn find_unpacked(
        &mut self,
        manifest: &Use,
        children: &[Descriptor],
        record: Option<&BlobRecord>,
    ) -> Result<Option<BlobRecord>> {
        let own = &manifest.descriptor;
        let first = self.snapshotters.first().copied();
        let Some(snapshotter) = first.filter(|_| own.media_type.is_manifest()) else {
            return Ok(None);
        };
        let keeps_tars = snapshotter.keeps_tars();
        // A record that was not lost lists as absent what was not stored. Another blob is missing.
        let is_lost = record.is_none_or(|record| record.children.is_empty());
        let may_be_unlisted = keeps_tars || is_lost;
        if !may_be_unlisted && record.is_some_and(|record| record.absent.is_empty()) {
            return Ok(None);
        }
        let layers = self.layers(own).await?;
        let (Some(config), Some((_, top))) = (children.first(), layers.last()) else {
            return Ok(None);
        };
        let of_config = self.store.blobs().load_sound(&config.digest).await?;
        let refers = of_config
            .as_ref()
            .is_some_and(|record| refers_to(record, snapshotter));
        // A label that refers to a lost snapshot would keep nothing.
        let may_be_unkept = !refers && committed(snapshotter, top).await?.is_some();
        let is_listed = |layer: &Digest| record.is_some_and(|record| record.absent.contains(layer));
        let mut found = BTreeSet::new();
        for (layer, chain_id) in &layers {
            let may_be_found = match is_listed(layer) {
                true => may_be_unkept,
                false => may_be_unlisted,
            };
            if !may_be_found || self.store.content.stat(layer).await?.is_some() {
                continue;
            }
            let Some(info) = committed(snapshotter, chain_id).await? else {
                continue;
            };
            let is_tar = record.is_some_and(|record| record.is_tar(layer));
            let is_kept = is_tar || is_of_layer(&info, layer);
            // The snapshot of a ready layer has no such label, even if the blob was not fetched.
            let may_be_ready = is_lost || is_listed(layer);
            if is_kept || (may_be_ready && snapshotter.has_ready_layer(&info.key).await?) {
                found.insert(*layer);
            }
        }
        if found.is_empty() {
            return Ok(None);
        }
        let repairs = self.guard.is_some();
        for layer in &found {
            let outcome = match repairs {
                true => "the record was corrected",
                false => "a repair corrects the record",
            };
            let what = match keeps_tars {
                true => "the snapshotter has the tar of this layer",
                false => "this layer was unpacked and not stored",
            };
            let wrong = match is_listed(layer) {
                true => "the record of the configuration does not keep its snapshot",
                false => "the record of the manifest does not state this",
            };
            let detail = format!("{what}, but {wrong}; {outcome}");
            self.add(Problem::BlobMissing, layer, detail, repairs);
        }
        let noted = |old: Option<BlobRecord>| {
            let new = || BlobRecord::new(own.size, Some(own.media_type.clone()));
            let mut record = old.unwrap_or_else(new);
            if record.children.is_empty() {
                record.children = children.iter().map(|child| child.digest).collect();
            }
            let new: Vec<Digest> = found.difference(&record.absent).copied().collect();
            record.absent.extend(&new);
            if keeps_tars {
                let tars = new.into_iter().map(|layer| (layer, Packing::Unknown));
                record.tars.extend(tars);
            }
            Ok(record)
        };
        if !repairs {
            return noted(record.cloned()).map(Some);
        }
        for (blob, is_lost) in [(own, record.is_none()), (config, of_config.is_none())] {
            if is_lost {
                self.labels_lost = true;
                self.note_made(blob.digest).await?;
            }
        }
        let label = Labels::from([(gc_ref_snapshot(snapshotter.name()), top.to_string())]);
        lease::set_labels(self.store, config, &label).await?;
        let record = self.store.blobs().update(&own.digest, noted).await?;
        Ok(Some(record))
    }

    /// Finds manifests that the record of an index states as absent, although they were stored
    /// before records were lost. A job that then stores another platform of the index states this.
    /// A repair corrects the record of the index. `children` are the blobs that the index lists.
    /// Returns the new record of the index, or `None` if there are no such manifests. A check that
    /// does not repair looks for none: what a killed job has left may look the same.
    ///
    /// # Errors
    /// Errors of the store and of the snapshotters.
    pub(super) async fn find_left_out(
        &mut self,
        index: &Use,
        children: &[Descriptor],
        record: Option<&BlobRecord>,
    ) -> Result<Option<BlobRecord>> {
        let Some(record) = record.filter(|_| self.guard.is_some()) else {
            return Ok(None);
        };
        let mut found = BTreeSet::new();
        for child in children {
            if record.absent.contains(&child.digest) && self.was_stored(child).await? {
                found.insert(child.digest);
            }
        }
        if found.is_empty() {
            return Ok(None);
        }
        // This comes before the records of the manifests are corrected. If the repair is killed in
        // between, a collection reads the manifests.
        let own = index.descriptor.digest;
        let correct = |old: Option<BlobRecord>| {
            let mut record = old.unwrap_or_else(|| record.clone());
            record.absent.retain(|child| !found.contains(child));
            Ok(record)
        };
        let record = self.store.blobs().update(&own, correct).await?;
        for child in &found {
            let detail = format!(
                "the record stated that {child} was not stored, but the store has it; the record \
                 was corrected"
            );
            self.add(Problem::ChildrenWrong, own, detail, true);
        }
        Ok(Some(record))
    }

    /// Returns whether a manifest that an index lists was stored before its record was lost, and
    /// nothing that it needs is missing. Layers do not count as missing if the image was unpacked
    /// and [`find_unpacked`](Self::find_unpacked) will find them.
    async fn was_stored(&self, manifest: &Descriptor) -> Result<bool> {
        let content = &*self.store.content;
        let record = self.store.blobs().load_sound(&manifest.digest).await?;
        let is_known =
            |record: &BlobRecord| !record.children.is_empty() || record.tombstone.is_some();
        let is_stored = content.stat(&manifest.digest).await?.is_some();
        if !is_stored || record.as_ref().is_some_and(is_known) {
            return Ok(false);
        }
        let layers = self.layers(manifest).await?;
        let mut unpacked = None;
        if let (Some(first), Some((_, top))) = (self.snapshotters.first(), layers.last())
            && committed(*first, top).await?.is_some()
        {
            unpacked = Some(*first);
        }
        let Some(snapshotter) = unpacked else {
            // A job that was killed leaves a record without children, too.
            if record.is_some() {
                return Ok(false);
            }
            return match completeness(self.store, manifest).await {
                Err(error) if is_of_document(&error) => Ok(false),
                found => Ok(found?.missing.is_none()),
            };
        };
        for child in dispatch::children(content, manifest).await? {
            let is_needed = child.data.is_none() && !child.media_type.is_non_distributable();
            if !is_needed || content.stat(&child.digest).await?.is_some() {
                continue;
            }
            let mut chain_ids = layers.iter().filter(|(layer, _)| *layer == child.digest);
            let Some((layer, chain_id)) = chain_ids.next() else {
                return Ok(false);
            };
            let Some(info) = committed(snapshotter, chain_id).await? else {
                return Ok(false);
            };
            if !is_of_layer(&info, layer) && !snapshotter.has_ready_layer(&info.key).await? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Returns the first snapshotter of the check if it keeps tars. The tars of any other
    /// snapshotter do not count as stored, because the layers of images are not read there.
    pub(super) fn keeper(&self) -> Option<&'a dyn Snapshotter> {
        let first = self.snapshotters.first().copied();
        first.filter(|one| one.keeps_tars())
    }

    /// Returns the layers of a manifest and their chain IDs. Returns nothing if the configuration
    /// is missing, damaged or not that of an image, or does not fit the manifest. Other steps of
    /// the check report missing and damaged blobs.
    async fn layers(&self, manifest: &Descriptor) -> Result<Vec<(Digest, Digest)>> {
        let found = layers_of(self.store, manifest).await?;
        let layers = found.map(|(_, layers)| layers).unwrap_or_default();
        let layers = layers.into_iter();
        Ok(layers.map(|layer| (layer.digest, layer.chain_id)).collect())
    }
}

/// Returns whether a label of a snapshot names this layer. It may name another blob that was packed
/// from the same tar.
fn is_of_layer(info: &Info, layer: &Digest) -> bool {
    info.labels.get(VERIFIED_LAYER) == Some(&layer.to_string())
}

/// Returns whether a record has a label that refers to a snapshot of `snapshotter`. The keys of the
/// labels for layers that are read on demand are longer, after a `/`.
fn refers_to(record: &BlobRecord, snapshotter: &dyn Snapshotter) -> bool {
    let key = gc_ref_snapshot(snapshotter.name());
    let keys = record.labels.keys();
    let mut rests = keys.filter_map(|one| one.strip_prefix(&*key));
    rests.any(|rest| rest.is_empty() || rest.starts_with('/'))
}
