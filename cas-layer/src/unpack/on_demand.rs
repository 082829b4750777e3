//! Layers that are read on demand: a snapshot has a table of contents in place of the layer.
//!
//! Nothing has compared such a layer with its diff ID. Its snapshot, and the snapshots above it,
//! therefore have other names than the snapshots of the whole layers, so no image whose layers are
//! verified is ever built on it. Labels in the record of the configuration say which layers are
//! read on demand.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use async_trait::async_trait;
use cas_core::records::BlobRecord;
use cas_core::snapshot::chain_ids;
use cas_core::{Context, Descriptor, Digest, Labels, Manifest, Result, Store, lease};

/// The beginning of the key of a label of a configuration. The hexadecimal digits of the digest of
/// a layer follow. The value is the identity of the [`LayerTable`] of this layer.
const IDENTITY: &str = "cas.on-demand.";

/// What is stored of a layer that is read on demand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LayerTable {
    /// The digest of everything that decides what the layer looks like. Takes the place of the
    /// diff ID in the names of snapshots, and must differ from every diff ID.
    pub identity: Digest,
    /// The files for the directory of the snapshot, with their names.
    pub files: Vec<(&'static str, Vec<u8>)>,
}

/// Provides the tables of contents of the layers of an image.
#[async_trait]
pub trait LayerTables: Send + Sync {
    /// Returns one element for each layer; the lowest is first. `layers` are the layers of `manifest`
    /// with their diff IDs, and `own` is the descriptor of `manifest`. A layer whose element is `None`
    /// is fetched as a whole.
    ///
    /// # Errors
    /// Errors after which the image must not be unpacked. If only a table is not available, the
    /// element of the layer is `None`.
    async fn tables(
        &self,
        own: &Descriptor,
        manifest: &Manifest,
        layers: &[(Descriptor, Digest)],
    ) -> Result<Vec<Option<LayerTable>>>;
}

/// Returns the names of the snapshots of layers, lowest first. If a layer is not in the store, and
/// a label of the configuration says that the layer is read on demand, the identity of its table
/// takes the place of its diff ID.
///
/// # Errors
/// Errors of the store.
pub(super) async fn recorded_chain(
    store: &Store,
    config: &Descriptor,
    layers: &[(Descriptor, Digest)],
) -> Result<Vec<Digest>> {
    let record = store.blobs().load(&config.digest).await?;
    let labels = record.map_or_else(Labels::new, |(record, _)| record.labels);
    let mut parts = Vec::with_capacity(layers.len());
    for (layer, diff_id) in layers {
        let identity = labels.get(&key(layer)).and_then(|text| text.parse().ok());
        parts.push(match identity {
            Some(identity) if store.content.stat(&layer.digest).await?.is_none() => identity,
            _ => *diff_id,
        });
    }
    Ok(chain_ids(&parts))
}

/// Returns the names of the snapshots of layers, lowest first. A layer that has a table is read on
/// demand.
pub(super) fn chain_with(
    layers: &[(Descriptor, Digest)],
    tables: &[Option<LayerTable>],
) -> Vec<Digest> {
    let parts = layers.iter().zip(tables);
    let parts = parts.map(|((_, diff_id), table)| match table {
        Some(table) => table.identity,
        None => *diff_id,
    });
    chain_ids(&parts.collect::<Vec<_>>())
}

/// Records in labels of the configuration which layers are read on demand.
///
/// # Errors
/// Errors of the store.
pub(super) async fn record(
    store: &Store,
    config: &Descriptor,
    layers: &[(Descriptor, Digest)],
    tables: &[Option<LayerTable>],
) -> Result<()> {
    let parts = layers.iter().zip(tables);
    let found = parts.filter_map(|((layer, _), table)| {
        let identity = table.as_ref()?.identity;
        Some((key(layer), identity.to_string()))
    });
    lease::set_labels(store, config, &found.collect()).await
}

/// Removes the labels of a configuration that [`record`] has written, and those that keep the
/// snapshots of its layers. These labels begin with `reference`.
///
/// # Errors
/// Errors of the store.
pub(super) async fn forget(store: &Store, config: &Descriptor, reference: &str) -> Result<()> {
    let has_meaning = |key: &String| key.starts_with(IDENTITY) || key.starts_with(reference);
    let blobs = store.blobs();
    let found = blobs.load(&config.digest).await?;
    if !found.is_some_and(|(record, _)| record.labels.keys().any(has_meaning)) {
        return Ok(());
    }
    let update = |found: Option<BlobRecord>| {
        let media_type = Some(config.media_type.clone());
        let mut record = found.unwrap_or_else(|| BlobRecord::new(config.size, media_type));
        record.labels.retain(|key, _| !has_meaning(key));
        Ok(record)
    };
    blobs.update(&config.digest, update).await.map(|_| ())
}

/// Writes the files of a table into the empty directory of a snapshot. They are not synced.
///
/// # Errors
/// `AlreadyExists` if the directory has a file of the same name; errors of the file system.
pub(super) fn write(table: &LayerTable, directory: &Path) -> Result<()> {
    for (name, bytes) in &table.files {
        let path = directory.join(name);
        let mut new = OpenOptions::new();
        let opened = new.write(true).create_new(true).mode(0o600).open(&path);
        let written = opened.and_then(|mut file| file.write_all(bytes));
        written.during("write", path.display())?;
    }
    Ok(())
}

fn key(layer: &Descriptor) -> String {
    format!("{IDENTITY}{}", layer.digest.hex())
}
