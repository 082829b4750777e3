//! Layers that are read on demand. The snapshot of such a layer has the table of contents of the
//! layer, and not the files of the layer.
//!
//! A layer that is read on demand is not compared with its diff ID. The names of its snapshot, and
//! of the snapshots above it, are therefore computed with its [`LayerTable::identity`] in place of
//! its diff ID. The snapshots of an image whose layers are all verified have other names, so they
//! are never built on a snapshot whose layer is not verified. Labels in the record of the
//! configuration name the layers that are read on demand.

use std::fs::{File, OpenOptions};
use std::io::{self, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use cas_core::records::BlobRecord;
use cas_core::snapshot::chain_ids;
use cas_core::{Context, Descriptor, Digest, Error, Labels, Manifest, Result, Store, lease};

/// How the keys of these labels of a configuration begin. The rest of the key is the
/// [id](manifest_id) of a manifest, a dot, and the hexadecimal digits of a layer's digest. The
/// value of the label is the identity of the layer's [`LayerTable`], a space, and the description
/// of the table. Earlier releases wrote only the identity.
const IDENTITY: &str = "cas.on-demand.";
/// Number of digits of the id of a manifest.
const ID: usize = 32;

/// A table of contents, which is stored in place of a layer that is read on demand.
#[derive(Clone, Debug)]
pub struct LayerTable {
    /// The digest of everything that determines the files of the layer. Takes the place of the diff
    /// ID in the names of snapshots, and must differ from every diff ID.
    pub identity: Digest,
    /// Tells a [`TableSource`] where to fetch the table. The description is stored in a label of
    /// the configuration of the image: the value of the label is the identity, a space, and the
    /// description. The description must therefore not contain secrets, and the label must not be
    /// longer than [`limit::LABEL`](cas_core::limit::LABEL).
    pub description: String,
    /// The files for the directory of the snapshot, with their names.
    pub files: Vec<(&'static str, TableContent)>,
}

/// The content of a file of a [`LayerTable`].
#[derive(Clone, Debug)]
pub enum TableContent {
    /// The bytes of the file.
    Bytes(Vec<u8>),
    /// A file with these bytes, which is read from its beginning. It may have no name. An image may
    /// have more bytes of tables than fit into memory.
    File(Arc<File>),
}

impl From<Vec<u8>> for TableContent {
    fn from(bytes: Vec<u8>) -> Self {
        TableContent::Bytes(bytes)
    }
}

impl TableContent {
    fn write(&self, to: &mut File) -> io::Result<()> {
        match self {
            TableContent::Bytes(bytes) => to.write_all(bytes),
            TableContent::File(file) => {
                let mut from = &**file;
                from.rewind()?;
                io::copy(&mut from, to).map(drop)
            }
        }
    }
}

/// Provides tables of contents for the layers of an image.
#[async_trait]
pub trait LayerTables: Send + Sync {
    /// Returns one element for each layer. The lowest layer is first. `layers` are the layers of
    /// `manifest` with their diff IDs, and `own` is the descriptor of `manifest`. `root` is the
    /// descriptor of the image's index, or of `manifest` if the image has no index. A layer whose
    /// element is `None` is fetched as a whole.
    ///
    /// # Errors
    /// An error means that the image must not be unpacked. A table that is not available causes no
    /// error: the element of its layer is `None`.
    async fn tables(
        &self,
        root: &Descriptor,
        own: &Descriptor,
        manifest: &Manifest,
        layers: &[(Descriptor, Digest)],
    ) -> Result<Vec<Option<LayerTable>>>;
}

/// Fetches the table of a layer again, if the snapshot of the layer is lost or damaged.
#[async_trait]
pub trait TableSource: Send + Sync {
    /// Fetches the table that has this [description](LayerTable::description), and verifies it.
    /// Returns the names and contents of the files for the directory of the snapshot.
    ///
    /// # Errors
    /// `Corrupt` if the description or the table is damaged; errors of the registry.
    async fn files(&self, description: &str) -> Result<Vec<(&'static str, TableContent)>>;
}

/// A layer that is read on demand, as a label of the configuration records it.
pub(super) struct Recorded {
    /// The [identity](LayerTable::identity) of the table.
    identity: Digest,
    /// The [description](LayerTable::description) of the table, if the label has one.
    description: Option<String>,
}

impl Recorded {
    fn parse(label: &str) -> Option<Self> {
        let (identity, description) = match label.split_once(' ') {
            Some((identity, description)) => (identity, Some(description.to_owned())),
            None => (label, None),
        };
        let identity = identity.parse().ok()?;
        Some(Recorded {
            identity,
            description,
        })
    }

    /// Fetches the table again.
    ///
    /// # Errors
    /// `NotFound` if the label has no description, or if `source` is `None`; errors of the source.
    pub(super) async fn fetch(&self, source: Option<&dyn TableSource>) -> Result<LayerTable> {
        let (Some(source), Some(description)) = (source, &self.description) else {
            return Err(Error::not_found(
                "the layer is read on demand, and its table of contents cannot be fetched again; \
                 pull the image again, with or without --lazy",
            ));
        };
        Ok(LayerTable {
            identity: self.identity,
            description: description.clone(),
            files: source.files(description).await?,
        })
    }
}

/// Returns the id that stands for a manifest in labels of its configuration: the first digits of
/// the digest of the manifest, which is serialized again for this. The labels need the id because
/// other manifests may have the same configuration and the same layers, but other tables.
///
/// # Errors
/// `Internal` if the manifest cannot be serialized.
pub(super) fn manifest_id(manifest: &Manifest) -> Result<String> {
    let bytes = serde_json::to_vec(manifest).map_err(|error| {
        Error::internal("a manifest could not be serialized; please report it").source(error)
    })?;
    Ok(Digest::sha256(&bytes).hex()[..ID].to_owned())
}

/// Returns which layers are read on demand, as labels of the configuration record it. Returns an
/// empty list if none is, or if the store has all layers that were to be read on demand when the
/// image was pulled.
///
/// # Errors
/// `Internal` as [`manifest_id`]; errors of the store.
pub(super) async fn recorded(
    store: &Store,
    manifest: &Manifest,
    layers: &[(Descriptor, Digest)],
) -> Result<Vec<Option<Recorded>>> {
    let record = store.blobs().load(&manifest.config.digest).await?;
    let labels = record.map_or_else(Labels::new, |(record, _)| record.labels);
    if !labels.keys().any(|key| key.starts_with(IDENTITY)) {
        return Ok(Vec::new());
    }
    let id = manifest_id(manifest)?;
    let mut found = Vec::with_capacity(layers.len());
    let mut is_missing = false;
    for (layer, _) in layers {
        let label = labels.get(&key(&id, layer));
        let one = label.and_then(|label| Recorded::parse(label));
        if one.is_some() {
            is_missing |= store.content.stat(&layer.digest).await?.is_none();
        }
        found.push(one);
    }
    Ok(if is_missing { found } else { Vec::new() })
}

/// Returns the names of the snapshots of layers, lowest first. The identities of the tables take
/// the place of the diff IDs of the layers that are read on demand.
pub(super) fn recorded_chain(
    layers: &[(Descriptor, Digest)],
    recorded: &[Option<Recorded>],
) -> Vec<Digest> {
    let identities = recorded.iter().map(|one| Some(one.as_ref()?.identity));
    chain(layers, identities)
}

/// Returns the names of the snapshots of layers, lowest first. A layer that has a table is read on
/// demand.
pub(super) fn chain_with(
    layers: &[(Descriptor, Digest)],
    tables: &[Option<LayerTable>],
) -> Vec<Digest> {
    let identities = tables.iter().map(|table| Some(table.as_ref()?.identity));
    chain(layers, identities)
}

fn chain(
    layers: &[(Descriptor, Digest)],
    identities: impl Iterator<Item = Option<Digest>>,
) -> Vec<Digest> {
    let identities = identities.chain(std::iter::repeat(None));
    let parts = layers.iter().zip(identities);
    let parts = parts.map(|((_, diff_id), identity)| identity.unwrap_or(*diff_id));
    chain_ids(&parts.collect::<Vec<_>>())
}

/// Records in labels of the configuration which layers of the manifest with this
/// [id](manifest_id) are read on demand.
///
/// # Errors
/// Errors of the store.
pub(super) async fn record(
    store: &Store,
    config: &Descriptor,
    id: &str,
    layers: &[(Descriptor, Digest)],
    tables: &[Option<LayerTable>],
) -> Result<()> {
    let parts = layers.iter().zip(tables);
    let found = parts.filter_map(|((layer, _), table)| {
        let LayerTable {
            identity,
            description,
            ..
        } = table.as_ref()?;
        Some((key(id, layer), format!("{identity} {description}")))
    });
    lease::set_labels(store, config, &found.collect()).await
}

/// Removes the labels of a configuration that [`record`] has written for a manifest, and the label
/// `reference`, which keeps the snapshots of its layers.
///
/// # Errors
/// Errors of the store.
pub(super) async fn forget(
    store: &Store,
    config: &Descriptor,
    id: &str,
    reference: &str,
) -> Result<()> {
    let prefix = format!("{IDENTITY}{id}.");
    let has_meaning = |key: &String| key.starts_with(&prefix) || key == reference;
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
    for (name, content) in &table.files {
        let path = directory.join(name);
        let mut new = OpenOptions::new();
        let opened = new.write(true).create_new(true).mode(0o600).open(&path);
        let written = opened.and_then(|mut file| content.write(&mut file));
        written.during("write", path.display())?;
    }
    Ok(())
}

/// Returns the error for a snapshotter that does not keep layers as tars.
pub(super) fn not_supported() -> Error {
    Error::unsupported("the snapshotter cannot read layers on demand; use the erofs snapshotter")
}

fn key(id: &str, layer: &Descriptor) -> String {
    format!("{IDENTITY}{id}.{}", layer.digest.hex())
}
