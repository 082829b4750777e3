//! Layers of which the store has no blob, so that a snapshotter may have their only copies.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::path::PathBuf;

use crate::complete::is_of_document;
use crate::descriptor::Descriptor;
use crate::digest::Digest;
use crate::dispatch;
use crate::document::{Document, Manifest};
use crate::error::{ErrorKind, Result};
use crate::image;
use crate::media_type::MediaType;
use crate::records::blob::decode;
use crate::records::{BlobRecord, Table, each};
use crate::snapshot::{Info, SnapshotKind, Snapshotter, chain_ids};
use crate::store::Store;

/// A layer of an image.
pub(crate) struct Layer {
    pub(crate) digest: Digest,
    pub(crate) diff_id: Digest,
    pub(crate) chain_id: Digest,
}

/// An image, and the tars of its layers that are in directories without a record.
pub(crate) struct StrayTars {
    /// The digest of the manifest.
    pub(crate) own: Digest,
    pub(crate) manifest: Box<Manifest>,
    /// The paths of the tars, by the digests of their layers.
    pub(crate) tars: BTreeMap<Digest, PathBuf>,
}

/// Finds tars in directories of a snapshotter that no record names, if they may be the only copies
/// of layers of stored images: the store does not have the blob of the layer, and the snapshotter
/// has no snapshot of the layer. Until the next call for this snapshotter, the directories of these
/// tars do not count as leftovers. Returns the tars by image. Reads no other tars than those in
/// directories that no record names.
///
/// # Errors
/// Errors of the store and of the snapshotter.
pub(crate) async fn keep_stray_tars(
    store: &Store,
    snapshotter: &dyn Snapshotter,
) -> Result<Vec<StrayTars>> {
    if snapshotter.unnamed_tars().await?.is_empty() {
        return Ok(Vec::new());
    }
    let (mut images, mut needed) = (Vec::new(), BTreeSet::new());
    for own in stored_manifests(store).await?.values() {
        let Some((manifest, layers)) = layers_of(store, own).await? else {
            continue;
        };
        let mut lacking = Vec::new();
        for layer in layers {
            if store.content.stat(&layer.digest).await?.is_none()
                && committed(snapshotter, &layer.chain_id).await?.is_none()
            {
                needed.insert(layer.diff_id);
                lacking.push(layer);
            }
        }
        images.push((own.digest, manifest, lacking));
    }
    let found = snapshotter.keep_tars(&needed).await?;
    let mut stray = Vec::new();
    for (own, manifest, lacking) in images {
        let tar = |layer: &Layer| Some((layer.digest, found.get(&layer.diff_id)?.clone()));
        let tars: BTreeMap<Digest, PathBuf> = lacking.iter().filter_map(tar).collect();
        if !tars.is_empty() {
            stray.push(StrayTars {
                own,
                manifest,
                tars,
            });
        }
    }
    Ok(stray)
}

/// Returns a manifest and its layers, lowest first. Returns `None` if the manifest or its
/// configuration is missing or damaged, if the configuration is not that of an image, or if it does
/// not fit the manifest.
///
/// # Errors
/// Errors of the store.
pub(crate) async fn layers_of(
    store: &Store,
    own: &Descriptor,
) -> Result<Option<(Box<Manifest>, Vec<Layer>)>> {
    let content = &*store.content;
    let read = async {
        let Document::Manifest(manifest) = dispatch::document(content, own).await? else {
            return Ok(None);
        };
        let config = image::image_config(content, &manifest.config).await?;
        let layers = image::layers(&manifest, &config)?;
        let diff_ids: Vec<Digest> = layers.iter().map(|(_, diff_id)| *diff_id).collect();
        let layers = layers.into_iter().zip(chain_ids(&diff_ids));
        let layers = layers.map(|((layer, diff_id), chain_id)| Layer {
            digest: layer.digest,
            diff_id,
            chain_id,
        });
        Ok(Some((manifest, layers.collect())))
    };
    match read.await {
        Err(error) if is_of_document(&error) => Ok(None),
        found => found,
    }
}

/// Returns the record of a layer's committed snapshot, or `None` if it is absent or damaged. The
/// check of the snapshots reports a damaged record, and removes it if the check repairs.
///
/// # Errors
/// Errors of the snapshotter.
pub(crate) async fn committed(
    snapshotter: &dyn Snapshotter,
    chain_id: &Digest,
) -> Result<Option<Info>> {
    match snapshotter.stat(&chain_id.to_string()).await {
        Err(error) if error.kind() == ErrorKind::Corrupt => Ok(None),
        found => Ok(found?.filter(|info| info.kind == SnapshotKind::Committed)),
    }
}

/// Returns the keys of all snapshots of each image that stays and needs one of `layers`, of which
/// the store has no blob. `layers` are the layers of snapshots that nothing reaches, in
/// snapshotters that keep tars. If the record of the topmost snapshot of an image was lost, nothing
/// reaches the snapshots below it, because the label of the image refers only to the topmost one.
/// `removed` are the blobs that the collection removes.
///
/// # Errors
/// Errors of the store.
pub(super) async fn needed_snapshots(
    store: &Store,
    layers: BTreeSet<Digest>,
    removed: &BTreeSet<Digest>,
) -> Result<HashSet<String>> {
    let mut unstored = BTreeSet::new();
    for layer in layers {
        if removed.contains(&layer) || store.content.stat(&layer).await?.is_none() {
            unstored.insert(layer);
        }
    }
    let mut needed = HashSet::new();
    if unstored.is_empty() {
        return Ok(needed);
    }
    let is_wanted = |own: &Digest, record: &BlobRecord| {
        !removed.contains(own) && !record.absent.is_disjoint(&unstored)
    };
    for own in recorded_manifests(store, is_wanted).await?.values() {
        let layers = layers_of(store, own).await?.map(|(_, layers)| layers);
        let layers = layers.unwrap_or_default().into_iter();
        needed.extend(layers.map(|layer| layer.chain_id.to_string()));
    }
    Ok(needed)
}

/// Returns the manifests that have a record, and those that the roots of the image store reach, by
/// digest. The records of the latter may be lost.
async fn stored_manifests(store: &Store) -> Result<BTreeMap<Digest, Descriptor>> {
    let mut found = recorded_manifests(store, |_, _| true).await?;
    let mut waiting: Vec<Descriptor> = match store.images.roots().await {
        // A check reports this, and a collection has failed before.
        Err(error) if is_of_document(&error) => Vec::new(),
        roots => roots?.into_iter().map(|root| root.target).collect(),
    };
    let mut read = HashSet::new();
    while let Some(document) = waiting.pop() {
        if document.media_type.is_manifest() {
            found.entry(document.digest).or_insert(document);
        } else if document.media_type.is_index() && read.insert(document.digest) {
            match dispatch::children(&*store.content, &document).await {
                Err(error) if is_of_document(&error) => {}
                children => waiting.extend(children?),
            }
        }
    }
    Ok(found)
}

/// Returns the manifests whose records `is_wanted` accepts, by digest.
async fn recorded_manifests(
    store: &Store,
    is_wanted: impl Fn(&Digest, &BlobRecord) -> bool + Send + Sync,
) -> Result<BTreeMap<Digest, Descriptor>> {
    let mut found = BTreeMap::new();
    each(&*store.records, Table::Blobs, "", |record| {
        // A check reports a record that does not parse.
        let (Ok(digest), Ok(blob)) = (record.key.parse::<Digest>(), decode(record)) else {
            return Ok(());
        };
        if blob.tombstone.is_none() && is_wanted(&digest, &blob) {
            let media_type = blob.media_type.filter(MediaType::is_manifest);
            found.extend(media_type.map(|media_type| {
                let own = Descriptor::new(media_type, digest, blob.size);
                (digest, own)
            }));
        }
        Ok(())
    })
    .await?;
    Ok(found)
}
