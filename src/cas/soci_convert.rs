//! Images with a SOCI index of version 2. The manifest of the image names the SOCI index, so the
//! digest of the image covers the SOCI index.

#[cfg(feature = "registry")]
use cas_core::Document;
use cas_core::content::Durability;
use cas_core::lease::LeaseGuard;
#[cfg(feature = "registry")]
use cas_core::progress::Progress;
use cas_core::{
    Context, Descriptor, Digest, Error, Image, MediaType, Platform, Result, Store, dispatch, image,
};
use cas_lazy::soci::{CONFIG, IMAGE_MANIFEST_DIGEST, INDEX_DIGEST, Index, Version};
use serde_json::{Value, json};

use super::arguments::{ImageRef, NewName};
use super::images::QueryOptions;
use super::soci::{BUILD_TOOL, SociOptions, Tables, tables};
use super::{Cas, lookup};

impl Cas {
    /// Converts an image into a new image `name` whose large layers can be read on demand. A layer
    /// is large if its compressed size is at least 10 MiB. The new image has the same configuration
    /// and the same layers, but another digest. The new image is an OCI index that lists two
    /// manifests. The first is the original manifest for the platform of this machine, with an
    /// added annotation that names the second. The second is a SOCI index of version 2. Signatures
    /// of the original image do not apply to the new image. If `name` exists already, it is moved
    /// to the new image. Returns the new image.
    ///
    /// # Errors
    /// As [`Cas::create_soci`]; `InvalidArgument` for text that is not a name, or a name with
    /// another digest than that of the new image.
    pub async fn convert_soci(
        &self,
        image: impl Into<ImageRef>,
        name: impl Into<NewName>,
    ) -> Result<Image> {
        let options = SociOptions::default();
        self.convert_soci_with(image, name, options).await
    }

    /// Converts an image with options. Returns the same as [`Cas::convert_soci`].
    ///
    /// # Errors
    /// As [`Cas::convert_soci`] and [`Cas::create_soci_with`].
    pub async fn convert_soci_with(
        &self,
        image: impl Into<ImageRef>,
        name: impl Into<NewName>,
        options: SociOptions,
    ) -> Result<Image> {
        let store = self.writable()?;
        let (name, full) = name.into().0?;
        let image = self.image(image).await?;
        self.note_use(&image.name);
        let subject = image.name.clone();
        let query = QueryOptions::default().with_platforms(options.platforms.clone());
        let found = self.manifest_with(image, query).await?;
        let guard = LeaseGuard::begin(store, "soci").await?;
        let made = make(store, &guard, &found, &options).await;
        let made = made.and_then(|target| name.check_digest(&target.digest).map(|()| target));
        let target = match made.during("convert image", subject) {
            Ok(target) => target,
            Err(error) => return guard.finish_with(Err(error)).await,
        };
        let converted = guard
            .name_one(Image::new(name, target), &["target"])
            .await?;
        if let Some(full) = &full {
            lookup::drop_other_spellings(store, full).await?;
        }
        Ok(converted)
    }
}

/// Stores the new image without a name. Returns its target.
async fn make(
    store: &Store,
    guard: &LeaseGuard,
    found: &image::Resolved,
    options: &SociOptions,
) -> Result<Descriptor> {
    guard.pin_tree(&found.descriptor).await?;
    let Tables { ztocs, prefetches } = tables(store, guard, &found.manifest, options).await?;
    let index = Index {
        version: Version::V2,
        ztocs,
        prefetches,
        build_tool: BUILD_TOOL.to_owned(),
    };
    let config = Descriptor::of(MediaType::from(index.config_media_type()), CONFIG);
    guard.put(&config, CONFIG.into(), Durability::Full).await?;
    let bytes = index.encode()?;
    let mut own = Descriptor::of(MediaType::OCI_MANIFEST, &bytes);
    guard.put(&own, bytes.into(), Durability::Full).await?;

    let manifest = annotated(store, &found.descriptor, &own.digest).await?;
    let mut listed = Descriptor::of(found.descriptor.media_type.clone(), &manifest);
    guard
        .put(&listed, manifest.into(), Durability::Full)
        .await?;
    let content = &*store.content;
    listed.platform = Some(image::config_platform(content, &found.manifest.config).await?);

    // Clients that look for an image skip this platform.
    own.platform = Some(Platform::new("unknown", "unknown"));
    own.artifact_type = Some(index.config_media_type().to_owned());
    let digest = listed.digest.to_string();
    own.annotations
        .insert(IMAGE_MANIFEST_DIGEST.to_owned(), digest);
    let whole = json!({
        "schemaVersion": 2,
        "mediaType": MediaType::OCI_INDEX,
        "manifests": [listed, own],
    });
    let whole = serialized(&whole)?;
    let target = Descriptor::of(MediaType::OCI_INDEX, &whole);
    guard.put(&target, whole.into(), Durability::Full).await?;
    Ok(target)
}

/// Warns if a push of the image `target` has pushed only the manifest `pushed`, and this manifest
/// names a SOCI index, which the index of the image lists.
#[cfg(feature = "registry")]
pub(super) async fn warn_of_left_out(
    store: &Store,
    target: &Descriptor,
    pushed: &Descriptor,
    progress: &dyn Progress,
) {
    if pushed.digest == target.digest {
        return;
    }
    let read = dispatch::document(&*store.content, pushed).await;
    if let Ok(Document::Manifest(manifest)) = read
        && let Some(annotations) = &manifest.annotations
        && annotations.contains_key(INDEX_DIGEST)
    {
        progress.warn(
            "the SOCI index of the image is not pushed, so `cas pull --lazy` cannot use it for the \
             pushed image; push all platforms of the image; if the store does not have them, pull \
             them first",
        );
    }
}

/// Returns a manifest of the store with an annotation that names a SOCI index. The rest of the
/// manifest stays unchanged.
async fn annotated(store: &Store, manifest: &Descriptor, index: &Digest) -> Result<Vec<u8>> {
    let bytes = dispatch::read(&*store.content, manifest).await?;
    let mut value: Value = serde_json::from_slice(&bytes)
        .map_err(|error| cas_core::error::malformed("not a valid manifest", &error))?;
    let annotations = &mut value["annotations"];
    if !annotations.is_object() {
        *annotations = json!({});
    }
    annotations[INDEX_DIGEST] = index.to_string().into();
    serialized(&value)
}

fn serialized(value: &Value) -> Result<Vec<u8>> {
    serde_json::to_vec(value).map_err(|error| {
        Error::internal("a document could not be serialized; please report it").source(error)
    })
}
