//! Unpacks images during their import. If the snapshotter can add a parent to a snapshot when it
//! commits the snapshot, the first image is unpacked while its layers are stored, so that the
//! layers are read once. The other images are unpacked from the store.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use cas_core::platform::Platforms;
use cas_core::progress::Progress;
use cas_core::transfer::{Unpacker, Want};
use cas_core::{Descriptor, Digest, Result, image};

use super::importer::{BlobImporter, in_parallel};
use super::item::Item;
use crate::unpack::{StreamingUnpacker, Target, is_artifact, to_snapshots};

/// The chain IDs of unpacked images, by the digests of their targets.
pub(super) type ChainIds = BTreeMap<Digest, Option<Digest>>;

/// What was unpacked.
pub(super) struct Unpacked {
    pub(super) chain_ids: ChainIds,
    /// The layers that were not stored, because the snapshotter has them already.
    pub(super) skipped: HashSet<Digest>,
}

/// How images are unpacked, and where.
pub(super) struct Unpack<'a> {
    pub(super) target: Target<'a>,
    pub(super) platforms: Platforms,
    pub(super) progress: &'a Arc<dyn Progress>,
}

impl Unpack<'_> {
    /// Stores the blobs of `items`, and unpacks the images, whose documents are in the store. If
    /// there is one image and the snapshotter keeps the only copy of layers, a layer that it has is
    /// not stored. A snapshotter that keeps the only copy of layers does not get artifacts.
    ///
    /// # Errors
    /// `NotFound` for an image that has nothing for the platform; errors of the import and of
    /// [`to_snapshots`].
    pub(super) async fn store_and_unpack(
        &self,
        importer: &BlobImporter<'_>,
        items: &[Item],
        images: &[Descriptor],
    ) -> Result<Unpacked> {
        let mut manifests = Vec::new();
        for image in images {
            let resolved = image::manifest_for(&*importer.store.content, image, &self.platforms);
            manifests.push((image, resolved.await?));
        }
        let mut manifests = manifests.into_iter();
        let mut chain_ids = ChainIds::new();
        let unpacker = StreamingUnpacker::new(importer.store, self.target, self.progress);
        let first = manifests.next();
        if let Some((image, resolved)) = &first {
            let own = &resolved.descriptor;
            unpacker.begin(image, own, &resolved.manifest).await?;
        }
        let mut skipped = HashSet::new();
        if let [_] = images {
            let digests = items.iter().map(|item| &item.descriptor);
            let known = digests.filter(|layer| unpacker.wants(layer) == Want::Nothing);
            skipped.extend(known.map(|layer| layer.digest));
        }
        let jobs = items
            .iter()
            .filter(|item| !skipped.contains(&item.descriptor.digest))
            .map(|item| importer.store(item, Some(&unpacker)));
        if let Err(error) = in_parallel(jobs).await {
            unpacker.abandon().await;
            return Err(error);
        }
        unpacker.finish().await?;
        if let Some((image, _)) = first {
            chain_ids.insert(image.digest, unpacker.into_chain_id());
        }
        for (image, resolved) in manifests {
            let manifest = resolved.manifest;
            if self.target.only_tars && is_artifact(importer.store, &manifest).await? {
                continue;
            }
            let unpacked = to_snapshots(importer.store, self.target, &manifest, self.progress);
            chain_ids.insert(image.digest, unpacked.await?);
        }
        Ok(Unpacked { chain_ids, skipped })
    }
}
