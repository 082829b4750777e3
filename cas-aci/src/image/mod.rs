//! ACIs as OCI images.

mod config;
mod dependencies;
mod layer;
mod whitelist;

use bytes::Bytes;
use cas_core::content::write_apart;
use cas_core::image::Reference;
use cas_core::lease::{BlobRef, LeaseGuard};
use cas_core::{Context, Descriptor, Digest, Error, Image, Manifest, MediaType, Result, Store};

use self::dependencies::{Part, parts};
use crate::blobs::{publish, store_small_blob};
use crate::store::AciStore;

impl AciStore {
    /// Makes an OCI image of an ACI and gives it a name. Returns the image.
    ///
    /// The image has a layer for the ACI itself and one for each ACI that it depends on. The layer
    /// of an ACI is above the layers of its dependencies, and a later dependency is above an
    /// earlier one. If several of these ACIs depend on the same ACI, the image has the layer of
    /// that ACI several times, once for each dependency. A dependency with an image ID is looked up
    /// in the catalogue by this ID, and any other dependency by its name and labels. If an ACI has
    /// a `pathWhitelist`, its layer and the layers of its dependencies have only the listed paths
    /// and the directories above them. The section `app` of the manifest becomes the configuration
    /// of the image, without the event handlers and the supplementary groups. The labels and
    /// annotations of the ACI become labels in the configuration. If the ACI lacks the label `os`,
    /// the image gets the operating system of this machine. If the ACI lacks the label `arch`, the
    /// image gets the architecture of this machine.
    ///
    /// # Errors
    /// As [`AciStore::resolve_key`]; `NotFound` for a dependency that the catalogue does not have,
    /// or a blob that the store does not have; `InvalidArgument` if several keys begin with the
    /// image ID of a dependency; `Corrupt` if a stored ACI is damaged, if an ACI depends on itself,
    /// or if the key of a dependency belongs to an ACI with another name or other labels;
    /// `OutOfRange` for a chain of dependencies of more than [`limit::ACI_DEPTH`] ACIs, for more
    /// than [`limit::LAYERS`] layers, or for more than [`limit::ACI_PORTS`] ports; `Unsupported`
    /// for content that an OCI image cannot express, such as a sparse file; errors of the store.
    ///
    /// If an error occurs after the name was written, the name is restored to the image that it had
    /// before. If the name did not exist before, or if part of that image is gone, the name is
    /// deleted instead. A failure to restore or delete the name is only logged.
    ///
    /// [`limit::ACI_DEPTH`]: cas_core::limit::ACI_DEPTH
    /// [`limit::LAYERS`]: cas_core::limit::LAYERS
    /// [`limit::ACI_PORTS`]: cas_core::limit::ACI_PORTS
    pub async fn to_image(&self, key: &str, name: Reference) -> Result<Image> {
        let found = parts(self, key).await;
        let parts = found.during("make image of ACI", key)?;
        let store = self.store();
        let guard = LeaseGuard::begin(store, "aci-image").await?;
        let target = match build(self, &guard, &parts).await {
            Ok(target) => target,
            Err(error) => {
                let failed = guard.finish_with(Err(error)).await;
                return failed.during("make image of ACI", key);
            }
        };
        guard.name_one(Image::new(name, target), &["target"]).await
    }
}

/// Stores the layers, the configuration and the manifest. Returns the descriptor of the manifest.
async fn build(acis: &AciStore, guard: &LeaseGuard, parts: &[Part]) -> Result<Descriptor> {
    let store = acis.store();
    let (mut layers, mut diff_ids) = (Vec::new(), Vec::new());
    for part in parts {
        let stored = store_layer(acis, guard, part).await;
        let (layer, diff_id) = stored.map_err(|error| error.within(part.info.key))?;
        layers.push(layer);
        diff_ids.push(diff_id);
    }
    let top = parts
        .last()
        .ok_or_else(|| Error::internal("the image would have no layers; please report it"))?;
    let config = Bytes::from(config::config(&top.manifest, &diff_ids)?);
    let config_blob = Descriptor::of(MediaType::OCI_CONFIG, &config);
    store_small_blob(store, guard, &config_blob, Vec::new(), config).await?;
    let listed = [&config_blob].into_iter().chain(&layers);
    let children = listed.map(|child| child.digest).collect();
    let manifest = Manifest {
        schema_version: 2,
        media_type: Some(MediaType::OCI_MANIFEST),
        artifact_type: None,
        config: config_blob,
        layers,
        subject: None,
        annotations: None,
    };
    let manifest = serde_json::to_vec(&manifest).map_err(|error| {
        Error::internal("a manifest could not be serialized; please report it").source(error)
    })?;
    let target = Descriptor::of(MediaType::OCI_MANIFEST, &manifest);
    store_small_blob(store, guard, &target, children, manifest.into()).await?;
    Ok(target)
}

/// Stores the rootfs of an ACI as a layer. Returns the descriptor and the diff ID of the layer.
async fn store_layer(
    acis: &AciStore,
    guard: &LeaseGuard,
    part: &Part,
) -> Result<(Descriptor, Digest)> {
    let store: &Store = acis.store();
    guard.pin(BlobRef::of(&part.info.blob, Vec::new())).await?;
    let archive = acis.open_reader(&part.info).await?;
    let whitelists = part.whitelists.clone();
    let write = move |writer, waiter| layer::write(archive, &whitelists, writer, waiter);
    let (ingest, (writer, diff_id)) = write_apart(&store.content, "aci-layer", write).await?;
    let layer = publish(store, guard, MediaType::OCI_LAYER_GZIP, ingest, writer).await?;
    Ok((layer, diff_id))
}
