//! Reads an archive of `docker save` that has no `index.json`: `manifest.json`, and configurations
//! and layers under any names.
//!
//! Such an archive has no OCI manifests, so one is created for each image (`docs/decisions/0002`).
//! Configurations and layers are stored unchanged, except that layers in xz or bzip2 are
//! decompressed. A layer that is stored uncompressed is verified against its diff ID during the
//! import. A compressed layer is verified when it is unpacked.

use std::collections::{BTreeMap, HashMap};

use cas_core::error::malformed;
use cas_core::image::ImageConfig;
use cas_core::nulls::null_is_default;
use cas_core::{Context, Descriptor, Digest, Error, Manifest, MediaType, Result, document, limit};
use serde::Deserialize;

use super::contents::Part;
use super::names::{Root, SourceName};
use super::plan::Plan;
use crate::codec::{self, Compression};
use crate::layout::DOCKER_MANIFEST;

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
#[serde(expecting = "an object")]
struct Entry {
    config: String,
    #[serde(default, deserialize_with = "null_is_default")]
    repo_tags: Vec<String>,
    #[serde(default, deserialize_with = "null_is_default")]
    layers: Vec<String>,
}

/// Returns the images that docker's `listing` names, and plans their content.
pub(super) async fn roots(plan: &mut Plan<'_>, listing: &[u8]) -> Result<Vec<Root>> {
    let entries = parse::<Option<Vec<Entry>>>(listing).during("read", DOCKER_MANIFEST)?;
    let entries = entries.unwrap_or_default();
    let mut compressed = HashMap::new();
    let mut roots = Vec::new();
    for entry in &entries {
        let Some(target) = image(plan, entry, &mut compressed).await? else {
            continue;
        };
        let tags = &entry.repo_tags;
        roots.extend(tags.iter().map(|tag| Root {
            name: Some(SourceName::Docker(tag.clone())),
            target: target.clone(),
        }));
        if tags.is_empty() {
            roots.push(Root { name: None, target });
        }
    }
    if roots.is_empty()
        && !entries.is_empty()
        && let Some(error) = plan.no_platform()
    {
        return Err(error);
    }
    Ok(roots)
}

/// Plans one image. Returns `None` if the plan requires a platform and the image is for another.
async fn image(
    plan: &mut Plan<'_>,
    entry: &Entry,
    compressed: &mut HashMap<String, Descriptor>,
) -> Result<Option<Descriptor>> {
    let named = |error: Error| error.operation("read").subject(&entry.config);
    let part = find(plan, &entry.config)?;
    let data = part.document(plan.importer.store).await.map_err(named)?;
    let ImageConfig {
        platform, diff_ids, ..
    } = ImageConfig::parse(&data).map_err(named)?;
    let platform = Some(&platform).filter(|platform| !platform.is_unstated());
    if plan.required && !plan.chooser.matches(platform) {
        return Ok(None);
    }
    let config = Descriptor::of(MediaType::OCI_CONFIG, &data);
    plan.configs.insert(config.digest);
    plan.add_leaf(config.clone(), Part::in_memory(data))?;
    let paths = &entry.layers;
    if paths.len() != diff_ids.len() || paths.len() > limit::LAYERS {
        return Err(named(Error::corrupt(format!(
            "the image has {} diff IDs and {} layers; expected the same number, at most {}; create \
             the archive again",
            diff_ids.len(),
            paths.len(),
            limit::LAYERS
        ))));
    }
    let mut layers = Vec::new();
    for (path, diff_id) in paths.iter().zip(diff_ids) {
        layers.push(layer(plan, path, diff_id, compressed).await?);
    }
    manifest(plan, config, layers).map(Some)
}

/// Plans one layer. Returns its descriptor.
async fn layer(
    plan: &mut Plan<'_>,
    path: &str,
    diff_id: Digest,
    compressed: &mut HashMap<String, Descriptor>,
) -> Result<Descriptor> {
    if let Some(known) = compressed.get(path) {
        return Ok(known.clone());
    }
    let part = find(plan, path)?;
    let magic = part.head(plan.importer.store, codec::MAGIC).await?;
    let compression = codec::detect(&magic);
    let media_type = match compression {
        Compression::None => {
            let descriptor = Descriptor::new(MediaType::OCI_LAYER, diff_id, part.size);
            plan.add_leaf(descriptor.clone(), part)?;
            return Ok(descriptor);
        }
        Compression::Gzip => MediaType::OCI_LAYER_GZIP,
        Compression::Zstd => MediaType::OCI_LAYER_ZSTD,
        Compression::Xz | Compression::Bzip2 => {
            let decoded = decoded_layer(plan, &part, compression, diff_id).await;
            return decoded.during("read", format_args!("{path:.200}"));
        }
    };
    let digest = plan.importer.store_unnamed_part(&part).await?;
    let descriptor = Descriptor::new(media_type, digest, part.size);
    plan.add_leaf(descriptor.clone(), part)?;
    compressed.insert(path.to_owned(), descriptor.clone());
    Ok(descriptor)
}

/// Stores a layer without its compression, for which OCI has no media type. Returns its descriptor.
async fn decoded_layer(
    plan: &mut Plan<'_>,
    part: &Part,
    compression: Compression,
    diff_id: Digest,
) -> Result<Descriptor> {
    let (digest, part) = plan.importer.store_decoded(part, compression).await?;
    let descriptor = Descriptor::new(MediaType::OCI_LAYER, diff_id, part.size);
    if digest != diff_id {
        return Err(Error::corrupt(format!(
            "expected a layer with the diff ID {diff_id}, found {digest}; create \
             the archive again"
        )));
    }
    plan.add_leaf(descriptor.clone(), part)?;
    Ok(descriptor)
}

/// Plans the manifest, which the archive does not have. Returns its descriptor.
fn manifest(
    plan: &mut Plan<'_>,
    config: Descriptor,
    layers: Vec<Descriptor>,
) -> Result<Descriptor> {
    let children = std::iter::once(&config)
        .chain(&layers)
        .map(|child| child.digest)
        .collect();
    let manifest = Manifest {
        schema_version: 2,
        media_type: Some(MediaType::OCI_MANIFEST),
        artifact_type: None,
        config,
        layers,
        subject: None,
        annotations: None::<BTreeMap<String, String>>,
    };
    let data = serde_json::to_vec(&manifest).map_err(|error| {
        Error::internal("a manifest could not be serialized; please report it").source(error)
    })?;
    let descriptor = Descriptor::of(MediaType::OCI_MANIFEST, &data);
    plan.add_document(descriptor.clone(), children, Part::in_memory(data.into()));
    Ok(descriptor)
}

fn find(plan: &Plan<'_>, path: &str) -> Result<Part> {
    plan.contents.find(path)?.ok_or_else(|| {
        Error::not_found(
            "the source is incomplete: it lists this file but does not contain it; import a \
             complete copy",
        )
        .operation("read")
        .subject(format!("{path:.200}"))
    })
}

fn parse<T: serde::de::DeserializeOwned>(data: &[u8]) -> Result<T> {
    document::check_json(data)?;
    serde_json::from_slice(data).map_err(|error| malformed("invalid document", &error))
}
