//! Removes the blobs of layers whose tars a snapshotter keeps.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::sync::Arc;

use cas_core::image::UNCOMPRESSED;
use cas_core::labels::{self, VERIFIED_LAYER};
use cas_core::lease::LeaseGuard;
use cas_core::progress::Progress;
use cas_core::records::{BlobRecord, Packing};
use cas_core::snapshot::{Condition, Depth};
use cas_core::{
    Descriptor, Digest, Error, ErrorKind, Labels, Manifest, Result, Snapshotter, Store, gc, pool,
};

use super::{Layer, damaged, layers, packing};
use crate::codec::Compression;
use crate::unpack::{Blob, is_artifact, note_verified, refer_back, tar_version};

/// Removes the blobs of an image's layers if the image was completely unpacked and the snapshotter
/// keeps the tars of the layers. Also records that the snapshotter keeps the tar of a layer whose
/// blob is not stored, for example because the layer was removed for another image.
///
/// A blob stays in the store in these cases:
///
/// - The decompressed bytes of the blob were not verified against the diff ID of its layer.
/// - Something else refers to the blob, such as a lease or another image that was not unpacked.
/// - The tar is damaged, or cannot be compared with the diff ID. The progress receives a warning.
/// - The media type of the layer is non-distributable.
///
/// `own` is the descriptor of `manifest`. Does nothing for an artifact, or if the record of the
/// manifest states that all layers are kept as tars. Does nothing either if the store does not have
/// a record that lists the children of the manifest, because another program wrote the manifest to
/// the store.
///
/// # Errors
/// `NotFound` if the store does not have the configuration; `Corrupt` if the manifest and the
/// configuration do not match; `Conflict` if the manifest is removed meanwhile; errors of the store
/// and of the snapshotter.
pub async fn drop_blobs(
    store: &Store,
    snapshotter: &Arc<dyn Snapshotter>,
    own: &Descriptor,
    manifest: &Manifest,
    progress: &Arc<dyn Progress>,
) -> Result<()> {
    let Some((record, _)) = store.blobs().load(&own.digest).await? else {
        return Ok(());
    };
    let is_tar = |layer: &Descriptor| record.is_tar(&layer.digest);
    if record.children.is_empty() || manifest.layers.iter().all(is_tar) {
        return Ok(());
    }
    if is_artifact(store, manifest).await? {
        return Ok(());
    }
    let guard = LeaseGuard::begin(store, "keep-tars").await?;
    let image = (own, &record);
    let dropped = mark(store, &guard, &**snapshotter, image, manifest, progress).await;
    let dropped = guard.finish_with(dropped).await?;
    if dropped.is_empty() {
        return Ok(());
    }
    let options = gc::GcOptions::default().with_only(Some(dropped));
    gc::collect(store, &[&**snapshotter], &options)
        .await
        .map(|_| ())
}

/// Records which layers of an image the snapshotter keeps as tars, so that their blobs can be
/// removed. `own` and `record` are the descriptor and the record of `manifest`. Returns the digests
/// of the stored blobs of these layers.
async fn mark(
    store: &Store,
    guard: &LeaseGuard,
    snapshotter: &dyn Snapshotter,
    (own, record): (&Descriptor, &BlobRecord),
    manifest: &Manifest,
    progress: &Arc<dyn Progress>,
) -> Result<BTreeSet<Digest>> {
    let layers = layers(store, manifest).await?;
    let Some(top) = layers.last() else {
        return Ok(BTreeSet::new());
    };
    // Without this label of the configuration, nothing would keep the tars.
    let config = store.blobs().load(&manifest.config.digest).await?;
    let reference = labels::gc_ref_snapshot(snapshotter.name());
    let kept = config.and_then(|(mut config, _)| config.labels.remove(&reference));
    if kept != Some(top.chain_id.to_string()) {
        return Ok(BTreeSet::new());
    }
    let keys: Vec<String> = layers.iter().map(|one| one.chain_id.to_string()).collect();
    guard.pin_snapshots(snapshotter.name(), &keys).await?;
    match refer_back(store, snapshotter, &top.chain_id, &own.digest).await {
        // Without the label, a loss of records would be a loss of the layers.
        Err(error) if error.kind() == ErrorKind::InvalidArgument => {
            progress.warn(&format!(
                "the tars of the layers do not take the place of their blobs: {error}"
            ));
            return Ok(BTreeSet::new());
        }
        referred => referred?,
    }
    let (mut found, mut unstored) = (BTreeMap::new(), BTreeMap::new());
    let mut kept = BTreeSet::new();
    for layer in &layers {
        let digest = layer.descriptor.digest;
        if record.absent.contains(&digest) && store.content.stat(&digest).await?.is_none() {
            let packing = match digest == layer.diff_id {
                true => Packing::Plain,
                false => Packing::Unknown,
            };
            if !has_tar(snapshotter, layer).await? {
                kept.insert(digest);
            } else if !record.is_tar(&digest) {
                unstored.insert(digest, packing);
            }
            continue;
        }
        match find_packing(store, snapshotter, layer).await {
            Ok(Some(packing)) => {
                found.insert(digest, packing);
            }
            Ok(None) => {
                kept.insert(digest);
            }
            Err(error) => {
                kept.insert(digest);
                progress.warn(&format!("the layer {digest} stays in the store: {error}"));
            }
        }
    }
    // An image may list a layer twice.
    found.retain(|digest, _| !kept.contains(digest));
    unstored.retain(|digest, _| !kept.contains(digest));
    if found.is_empty() && unstored.is_empty() {
        return Ok(BTreeSet::new());
    }
    // The blob of such a layer was removed for another image, whose record states how to make it.
    let unknown = unstored
        .iter()
        .filter(|(_, packing)| **packing == Packing::Unknown);
    let unknown: BTreeSet<Digest> = unknown.map(|(digest, _)| *digest).collect();
    if !unknown.is_empty() {
        unstored.extend(store.blobs().packings(&unknown).await?);
    }
    let change = |record: Option<BlobRecord>| {
        let mut record = record.ok_or_else(|| {
            Error::conflict("the manifest was removed meanwhile; repeat the command")
                .subject(own.digest)
        })?;
        let listed = found
            .iter()
            .chain(&unstored)
            .filter(|(digest, _)| record.children.contains(digest));
        let listed: Vec<_> = listed
            .map(|(digest, packing)| (*digest, *packing))
            .collect();
        record
            .absent
            .extend(listed.iter().map(|(digest, _)| *digest));
        record.tars.extend(listed);
        Ok(record)
    };
    store.blobs().update(&own.digest, change).await?;
    Ok(found.into_keys().collect())
}

/// Returns whether the snapshotter has the tar of a layer, whose blob need not be stored.
async fn has_tar(snapshotter: &dyn Snapshotter, layer: &Layer) -> Result<bool> {
    let key = layer.chain_id.to_string();
    let digest = layer.descriptor.digest;
    let found = snapshotter.stat(&key).await?;
    let label = found.and_then(|mut info| info.labels.remove(VERIFIED_LAYER));
    if digest != layer.diff_id && label != Some(digest.to_string()) {
        return Ok(false);
    }
    Ok(snapshotter.open_tar(&key).await?.is_some())
}

/// Returns how a layer was packed. Returns `None` if its blob is not stored, or if it does not have
/// a tar that may take the place of the blob. Compares the bytes of the tar with the diff ID.
///
/// # Errors
/// `Corrupt` if the tar is damaged; errors of the store and of the snapshotter.
async fn find_packing(
    store: &Store,
    snapshotter: &dyn Snapshotter,
    layer: &Layer,
) -> Result<Option<Packing>> {
    let Layer {
        descriptor,
        diff_id,
        chain_id,
    } = layer;
    let is_tar = descriptor.media_type.diff_compression().is_ok()
        && !descriptor.media_type.is_non_distributable();
    if !is_tar || descriptor.data.is_some() || !store.present(descriptor).await? {
        return Ok(None);
    }
    let record = store.blobs().load(&descriptor.digest).await?;
    let label = record.and_then(|(mut record, _)| record.labels.remove(UNCOMPRESSED));
    let is_plain = descriptor.digest == *diff_id;
    if !is_plain && label != Some(diff_id.to_string()) {
        return Ok(None);
    }
    let key = chain_id.to_string();
    let Some(tar) = snapshotter.open_tar(&key).await? else {
        return Ok(None);
    };
    // After this update, a removal of the snapshot is refused. If the snapshot was removed before,
    // the update fails.
    let label = Labels::from([(VERIFIED_LAYER.to_owned(), descriptor.digest.to_string())]);
    let path = format!("labels.{VERIFIED_LAYER}");
    snapshotter.update(&key, label, &[&path]).await?;
    let (version, depth) = (tar_version(&tar)?, Depth::Bytes { per_second: None });
    match snapshotter.check(&key, depth).await? {
        Condition::Sound => note_verified(snapshotter, &key, version).await?,
        _ => return Err(damaged(chain_id)),
    }
    match is_plain {
        true => Ok(Some(Packing::Plain)),
        false => try_levels(store, descriptor, tar).await.map(Some),
    }
}

/// Returns how a stored blob was packed from `tar`.
async fn try_levels(store: &Store, layer: &Descriptor, mut tar: File) -> Result<Packing> {
    let (blob, compression) = Blob::open(store, layer).await?;
    if compression != Compression::Gzip {
        return Ok(Packing::Unknown);
    }
    let found = pool::apart("cas-packing", move || {
        Ok(packing::find(&mut tar, || Ok(blob.again()))?)
    });
    found.await
}
