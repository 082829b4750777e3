//! Unpacks the layers of an image into snapshots, or into one plain directory.
//!
//! The size and the diff ID of every layer that is unpacked are verified. If a label of the layer
//! already records the diff ID, the digest of the layer is verified in place of the diff ID. A
//! snapshot is committed only when its layer is complete. The snapshot of a layer that is
//! [read on demand](LayerTables) is committed only when the table of contents is complete.
//!
//! If the snapshotter can [set the parent of a snapshot at the commit](Snapshotter::rebases), the
//! layers of an image are unpacked in parallel, synced together to the disk, and then committed.
//! A layer that can be unpacked only on top of the layers below it waits until the layers below it
//! are committed.
//!
//! If the unpack into a directory fails, the files that were unpacked into it are removed. If the
//! caller drops the future of an unpack, the threads that unpack layers end soon, and unfinished
//! snapshots and directories are removed in the background. Layers that were unpacked in an
//! [unpack job](jobs) stay for a later process.

mod active_snapshot;
mod blob;
mod cancel;
mod chain_lock;
mod checkpoints;
mod directory;
mod discard;
mod fold;
pub mod jobs;
mod kept_layer;
mod new_directory;
mod on_demand;
mod parallel;
mod ready_layers;
mod rebuild;
mod serial;
mod standalone;
mod stored_tar;
mod stray_tars;
mod streaming;
mod unpacking;
mod verified_tar;

use std::io::Read;

use cas_core::image::{self, UNCOMPRESSED, not_a_tar};
use cas_core::lease::{self, BlobRef};
use cas_core::platform::EROFS;
use cas_core::progress::Progress;
use cas_core::records::BlobRecord;
use cas_core::snapshot::chain_ids;
use cas_core::{
    Context, Descriptor, Digest, Error, ErrorKind, Labels, Manifest, MediaType, Result,
    Snapshotter, Store,
};

pub use chain_lock::free_locks;
pub use directory::{DirectoryOptions, Entrance, to_directory};
pub(crate) use discard::refer_back;
pub use fold::fold_layers;
pub use new_directory::new_directory;
pub use on_demand::{LayerTable, LayerTables, TableContent, TableSource};
pub use rebuild::{ChainLayer, chain_of, rebuild};
pub use stray_tars::restore_snapshots;
pub use streaming::StreamingUnpacker;
pub use unpacking::{Target, to_snapshots};
pub(crate) use verified_tar::{check_without_tar, note_verified, tar_version};

pub use self::blob::Blob;
use self::blob::CheckedBlob;
use self::cancel::Waiter;
use crate::codec::Compression;
use crate::flow::{Accept, LayerCheckpoints, LayerSource};

/// A layer that is in the store.
struct StoredLayer {
    descriptor: Descriptor,
    diff_id: Digest,
    blob: Blob,
    compression: Compression,
    /// Whether a label records that these bytes decompress to this diff ID.
    diff_id_known: bool,
    checkpoints: Option<LayerCheckpoints>,
}

/// Returns the outcome of several jobs. Of several errors, returns the first that is not
/// `Cancelled`, if there is one, because a job that was cancelled does not report the cause.
pub(crate) fn first_cause(outcomes: Vec<Result<()>>) -> Result<()> {
    let mut errors = outcomes.into_iter().filter_map(Result::err);
    let Some(first) = errors.next() else {
        return Ok(());
    };
    let cancelled = |error: &Error| error.kind() == ErrorKind::Cancelled;
    if cancelled(&first)
        && let Some(cause) = errors.find(|error| !cancelled(error))
    {
        return Err(cause);
    }
    Err(first)
}

/// Returns the blobs that are read to unpack an image.
fn parts(manifest: &Manifest) -> Vec<BlobRef> {
    let parts = std::iter::once(&manifest.config).chain(&manifest.layers);
    parts.map(|part| BlobRef::of(part, Vec::new())).collect()
}

/// Returns the chain IDs of the layers of an image, lowest layer first. The snapshots of the image
/// have these names after it is unpacked. If a layer is read on demand, its
/// [`LayerTable::identity`] takes the place of its diff ID.
///
/// Returns `None` if any layer was not yet verified against its diff ID. The configuration may
/// state a wrong diff ID for such a layer, so the snapshots with these names may belong to another
/// image. [`to_snapshots`] verifies such a layer. A layer that is not in the store counts as
/// verified, because a job may have verified and discarded it, unless registries do not distribute
/// the layer.
///
/// # Errors
/// `NotFound` if the store does not have the configuration; `Corrupt` if the configuration is
/// damaged, or does not match the manifest; `OutOfRange` if the configuration is too large to be
/// read; `Unsupported` if the image is an artifact or lists a blob that is not a layer, if the
/// annotation `org.erofs.role` of a layer states a role other than `overlay-lower`, or if a layer
/// is an EROFS image by its type, and `snapshotter` only supports tars; errors of the store.
pub async fn verified_chain_ids(
    store: &Store,
    snapshotter: &dyn Snapshotter,
    manifest: &Manifest,
) -> Result<Option<Vec<Digest>>> {
    let layers = layers_with_diff_ids(store, manifest).await?;
    check_types(&layers, accepted_by(snapshotter))?;
    for (layer, diff_id) in &layers {
        if is_unverified(store, layer, diff_id).await? {
            return Ok(None);
        }
    }
    let recorded = on_demand::recorded(store, manifest, &layers).await?;
    Ok(Some(on_demand::recorded_chain(&layers, &recorded)))
}

/// Returns whether a manifest describes an artifact: its configuration is not that of an image, or
/// it lists only blobs of types that no layer has.
///
/// # Errors
/// `NotFound` if the store does not have the configuration; `Corrupt` if the configuration is
/// damaged; `OutOfRange` if the configuration is too large to be read; errors of the store.
pub async fn is_artifact(store: &Store, manifest: &Manifest) -> Result<bool> {
    let mut types = manifest.layers.iter().map(|layer| &layer.media_type);
    if !manifest.layers.is_empty() && types.all(|media_type| !media_type.may_be_layer()) {
        return Ok(true);
    }
    match image::image_config(&*store.content, &manifest.config).await {
        Err(error) if error.kind() == ErrorKind::Unsupported => Ok(true),
        config => config.map(|_| false),
    }
}

/// Returns the layers of `manifest` with their diff IDs, lowest first.
async fn layers_with_diff_ids(
    store: &Store,
    manifest: &Manifest,
) -> Result<Vec<(Descriptor, Digest)>> {
    let config = image::image_config(store.content.as_ref(), &manifest.config).await?;
    image::layers(manifest, &config)
}

/// Returns which layers a snapshotter can have: only tars, or also EROFS images.
fn accepted_by(snapshotter: &dyn Snapshotter) -> Accept {
    match snapshotter.os_features().contains(&EROFS) {
        true => Accept::TarsAndImages,
        false => Accept::Tars,
    }
}

/// Checks the types of layers before any layer is fetched or read. Only the type counts, so that
/// the outcome does not depend on what is stored already.
///
/// # Errors
/// `Unsupported` for a layer that is an EROFS image by its type, if only tars are accepted.
fn check_types(layers: &[(Descriptor, Digest)], accept: Accept) -> Result<()> {
    let mut layers = layers.iter().map(|(layer, _)| layer);
    match layers.find(|layer| layer.media_type.is_erofs()) {
        Some(image) if accept == Accept::Tars => Err(not_a_tar(image).operation("unpack")),
        _ => Ok(()),
    }
}

/// Where the layers of an image are read from.
#[derive(Clone, Copy)]
pub struct LayersFrom<'a> {
    /// The store from which the configuration and the layers are read.
    pub store: &'a Store,
    /// A snapshotter that keeps the tars of layers. If the store does not have a layer, the tar of
    /// the layer is read from this snapshotter.
    pub tars: Option<&'a dyn Snapshotter>,
}

impl<'a> From<&'a Store> for LayersFrom<'a> {
    fn from(store: &'a Store) -> Self {
        LayersFrom { store, tars: None }
    }
}

impl LayersFrom<'_> {
    /// Opens layers, lowest first, to read them on a thread that `waiter` waits for.
    async fn open(
        &self,
        layers: &[(Descriptor, Digest)],
        waiter: &Waiter,
    ) -> Result<Vec<LayerSource<'static>>> {
        let diff_ids: Vec<Digest> = layers.iter().map(|(_, diff_id)| *diff_id).collect();
        let mut sources = Vec::with_capacity(layers.len());
        for (layer, chain_id) in layers.iter().zip(chain_ids(&diff_ids)) {
            let source = match self.open_tar(layer, &chain_id).await? {
                Some(tar) => tar,
                None => StoredLayer::open(self.store, layer.clone()).await?.source(),
            };
            sources.push(waiter.watch().layer(source));
        }
        Ok(sources)
    }

    /// Opens the tar of a layer that the store does not have. Returns `None` if the store has the
    /// layer, or if no snapshot was meant to have its tar.
    ///
    /// # Errors
    /// As [`check_without_tar`]; errors of the store and of the file system.
    async fn open_tar(
        &self,
        (layer, diff_id): &(Descriptor, Digest),
        chain_id: &Digest,
    ) -> Result<Option<LayerSource<'static>>> {
        let Some(snapshotter) = self.tars else {
            return Ok(None);
        };
        if self.store.content.stat(&layer.digest).await?.is_some() {
            return Ok(None);
        }
        let key = chain_id.to_string();
        let Some(tar) = snapshotter.open_tar(&key).await? else {
            return check_without_tar(snapshotter, &key).await.map(|()| None);
        };
        let length = tar.metadata().during("read", chain_id)?.len();
        Ok(Some(LayerSource {
            blob: Box::new(tar),
            descriptor: Descriptor::new(MediaType::OCI_LAYER, *diff_id, length),
            diff_id: Some(*diff_id),
            compression: Compression::None,
            checkpoints: None,
        }))
    }

    /// Records the diff IDs of verified layers, and the checkpoints that were recorded while they
    /// were read. A layer that is not stored has no record to change.
    async fn record(
        &self,
        layers: &[(Descriptor, Digest)],
        checkpoints: &[Option<LayerCheckpoints>],
        progress: &dyn Progress,
    ) {
        for ((layer, diff_id), checkpoints) in layers.iter().zip(checkpoints) {
            let is_stored = self.store.content.stat(&layer.digest).await;
            if self.tars.is_none() || is_stored.is_ok_and(|stat| stat.is_some()) {
                record_diff_id(self.store, layer, diff_id, progress).await;
            }
            if let Some(checkpoints) = checkpoints {
                checkpoints::keep(self.store, layer, checkpoints, progress).await;
            }
        }
    }
}

impl StoredLayer {
    /// Opens a layer. Compression is detected from the bytes, because media types are unreliable.
    async fn open(store: &Store, (descriptor, diff_id): (Descriptor, Digest)) -> Result<Self> {
        let (blob, compression) = Blob::open(store, &descriptor).await?;
        let labels = labels_of(store, &descriptor).await?;
        let diff_id_known = records(&labels, &diff_id);
        let checkpoints = match compression {
            Compression::Gzip => Some(checkpoints::find(store, &labels).await),
            _ => None,
        };
        Ok(StoredLayer {
            descriptor,
            diff_id,
            blob,
            compression,
            diff_id_known,
            checkpoints,
        })
    }

    /// Returns the layer as a source for the pipeline. If the diff ID is known from a label, the
    /// digest of the stored bytes is verified instead, which is faster.
    fn source(self) -> LayerSource<'static> {
        let digest = self.descriptor.digest;
        let (blob, diff_id): (Box<dyn Read + Send>, _) = if self.diff_id_known {
            (Box::new(CheckedBlob::new(self.blob, digest)), None)
        } else {
            (Box::new(self.blob), Some(self.diff_id))
        };
        LayerSource {
            blob,
            descriptor: self.descriptor,
            diff_id,
            compression: self.compression,
            checkpoints: self.checkpoints,
        }
    }
}

/// Returns the labels of a layer.
async fn labels_of(store: &Store, layer: &Descriptor) -> Result<Labels> {
    let record = store.blobs().load(&layer.digest).await?;
    Ok(record.map(|(record, _)| record.labels).unwrap_or_default())
}

/// Returns whether these labels of a layer record this diff ID.
fn records(labels: &Labels, diff_id: &Digest) -> bool {
    (labels.get(UNCOMPRESSED)).is_some_and(|label| *label == diff_id.to_string())
}

/// Returns whether a label records that the bytes of a layer decompress to this diff ID.
async fn is_diff_id_known(store: &Store, layer: &Descriptor, diff_id: &Digest) -> Result<bool> {
    let labels = labels_of(store, layer).await?;
    Ok(records(&labels, diff_id))
}

/// Returns whether the bytes of a layer are not known to have this diff ID, although they could be
/// verified: the store has them, or no job can have verified and discarded them, because registries
/// do not distribute them.
async fn is_unverified(store: &Store, layer: &Descriptor, diff_id: &Digest) -> Result<bool> {
    if layer.digest == *diff_id || is_diff_id_known(store, layer, diff_id).await? {
        return Ok(false);
    }
    Ok(layer.media_type.is_non_distributable()
        || store.content.stat(&layer.digest).await?.is_some())
}

/// Records the diff ID of a verified layer in a label, so that it is known later without
/// decompression. The label only saves time, so a failure is only reported as a warning, and not at
/// all if the store cannot be written.
async fn record_diff_id(
    store: &Store,
    layer: &Descriptor,
    diff_id: &Digest,
    progress: &dyn Progress,
) {
    if layer.digest == *diff_id {
        return;
    }
    let text = diff_id.to_string();
    let label = |found: Option<BlobRecord>| {
        let media_type = Some(layer.media_type.clone());
        let mut record = found.unwrap_or_else(|| BlobRecord::new(layer.size, media_type));
        record.labels.insert(UNCOMPRESSED.to_owned(), text.clone());
        Ok(record)
    };
    if let Err(error) = store.blobs().update(&layer.digest, label).await
        && !lease::cannot_write(&error)
    {
        progress.warn(&format!(
            "the diff ID of the layer {} could not be recorded: {error}; the next unpack will \
             verify the diff ID again",
            layer.digest
        ));
    }
}
