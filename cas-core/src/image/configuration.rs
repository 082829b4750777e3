//! The parts of an image configuration that storing and unpacking need.

use serde::Deserialize;
use serde::de::IgnoredAny;

use crate::content::ContentStore;
use crate::descriptor::Descriptor;
use crate::digest::Digest;
use crate::dispatch::read;
use crate::document::{Manifest, check_json};
use crate::error::{Context, Error, Result, excerpt, malformed};
use crate::limit;
use crate::media_type::MediaType;
use crate::nulls::null_is_default;
use crate::platform::Platform;

/// The platform and the layers that an image configuration states.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageConfig {
    /// The platform, normalized. Members that the configuration does not state are empty, but `arm`
    /// without a variant gets the variant `v7`.
    pub platform: Platform,
    /// The type of the root file system, which should be `layers`; empty if it is not stated.
    pub rootfs_type: String,
    /// The diff IDs: digests of the uncompressed layers, lowest first.
    pub diff_ids: Vec<Digest>,
}

#[derive(Deserialize)]
#[serde(expecting = "an object")]
struct Raw {
    #[serde(flatten)]
    platform: Platform,
    #[serde(default, deserialize_with = "null_is_default")]
    rootfs: RawRootFs,
}

#[derive(Deserialize, Default)]
#[serde(expecting = "an object")]
struct RawRootFs {
    #[serde(rename = "type", default, deserialize_with = "null_is_default")]
    kind: String,
    #[serde(default, deserialize_with = "null_is_default")]
    diff_ids: Vec<Digest>,
}

/// The members by which content is recognized as a configuration.
#[derive(Deserialize)]
struct Marks {
    rootfs: Option<RawRootFs>,
    #[serde(default, deserialize_with = "null_is_default")]
    os: String,
    #[serde(default, deserialize_with = "null_is_default")]
    architecture: String,
    config: Option<IgnoredAny>,
    container_config: Option<IgnoredAny>,
    history: Option<IgnoredAny>,
}

impl Marks {
    /// Returns whether these are the members of an image configuration. `media_type` is the type of
    /// the content, for which `is_config` returned false. The configurations of AI models and of
    /// docker's plugins also state a root file system, but not a platform.
    fn are_of_image(&self, media_type: &MediaType) -> bool {
        let has_layers = self
            .rootfs
            .as_ref()
            .is_some_and(|root| root.kind == "layers");
        let has_platform = !self.os.is_empty() && !self.architecture.is_empty();
        let has_process = self.config.is_some()
            || self.container_config.is_some()
            || self.history.is_some()
            || !self.os.is_empty();
        has_layers && (has_platform || has_process && !media_type.is_vendor())
    }
}

impl ImageConfig {
    /// Returns the configuration of an image, or `None` if `data` is something else, such as the
    /// configuration of an artifact. If `media_type` does not decide this, `data` is examined,
    /// because docker gave configurations other media types in 2015 and 2016 than it does today.
    ///
    /// # Errors
    /// `Corrupt` if `data` is a configuration by its type or its content, but does not parse or
    /// exceeds the bounds of [`limit`].
    pub fn recognise(media_type: &MediaType, data: &[u8]) -> Result<Option<Self>> {
        if media_type.is_config() {
            return Self::parse(data).map(Some);
        }
        let is_object = data.trim_ascii_start().starts_with(b"{");
        if !may_be_config(media_type, data.len() as u64) || !is_object || check_json(data).is_err()
        {
            return Ok(None);
        }
        let marks = serde_json::from_slice::<Marks>(data);
        match marks.is_ok_and(|marks| marks.are_of_image(media_type)) {
            true => Self::parse(data).map(Some),
            false => Ok(None),
        }
    }

    /// Parses a configuration. Unknown members are ignored.
    ///
    /// # Errors
    /// `Corrupt` if it does not parse or exceeds the bounds of [`limit`].
    pub fn parse(data: &[u8]) -> Result<Self> {
        check_json(data)?;
        // serde would also accept an array of the members.
        if !data.trim_ascii_start().starts_with(b"{") {
            return Err(Error::corrupt(
                "the image configuration is not a JSON object; build the image again",
            ));
        }
        let raw: Raw = serde_json::from_slice(data)
            .map_err(|error| malformed("not an image configuration", &error))?;
        let RawRootFs { kind, diff_ids } = raw.rootfs;
        if diff_ids.len() > limit::LAYERS {
            let (found, allowed) = (diff_ids.len(), limit::LAYERS);
            return Err(Error::corrupt(format!(
                "the image configuration has {found} diff IDs; at most {allowed} are allowed; \
                 build the image with fewer layers"
            )));
        }
        Ok(ImageConfig {
            platform: raw.platform.normalized(),
            rootfs_type: kind,
            diff_ids,
        })
    }
}

/// Returns whether content of this type and size may be a configuration. If so, the content is read
/// to find out.
fn may_be_config(media_type: &MediaType, size: u64) -> bool {
    let other = *media_type == MediaType::OCI_EMPTY
        || media_type.is_document()
        || media_type.is_layer()
        || media_type.is_known_config();
    media_type.is_config() || !other && size <= limit::DOCUMENT_READ
}

/// Returns the configuration that a descriptor refers to.
///
/// # Errors
/// `NotFound` if it is not in the store; `Corrupt` if it is damaged or does not parse;
/// `OutOfRange` if its type is that of an image configuration and it is too large to be read;
/// `Unsupported` if it is something other than an image configuration, for example the
/// configuration of an artifact; errors of the store.
pub async fn image_config(content: &dyn ContentStore, config: &Descriptor) -> Result<ImageConfig> {
    let mut found = None;
    if may_be_config(&config.media_type, config.size) {
        let data = read(content, config).await?;
        let recognised = ImageConfig::recognise(&config.media_type, &data);
        found = recognised.during("read configuration", config.digest)?;
    }
    found.ok_or_else(|| {
        let found = &config.media_type;
        Error::unsupported(format!(
            "expected an image configuration, found a blob of type {found:.200}; if the image is \
             an artifact, it has no image configuration"
        ))
        .operation("read configuration")
        .subject(config.digest)
    })
}

/// Returns the platform that a configuration states, normalized.
///
/// # Errors
/// As [`image_config`].
pub async fn config_platform(content: &dyn ContentStore, config: &Descriptor) -> Result<Platform> {
    Ok(image_config(content, config).await?.platform)
}

/// Returns the diff IDs that a configuration lists, lowest layer first.
///
/// # Errors
/// As [`image_config`].
pub async fn rootfs(content: &dyn ContentStore, config: &Descriptor) -> Result<Vec<Digest>> {
    Ok(image_config(content, config).await?.diff_ids)
}

/// The annotation with the role of a layer that is an EROFS image, in the descriptor of the layer.
/// A layer without a role, or with the role [`LOWER`], is mounted on the layers below it.
const EROFS_ROLE: &str = "org.erofs.role";
const LOWER: &str = "overlay-lower";
/// The annotation with the diff ID of a layer that is an EROFS image.
const EROFS_DIFF_ID: &str = "org.erofs.uncompressed-digest";

/// Returns the layers of an image, lowest first, each with its diff ID.
///
/// The diff ID of a layer that is an uncompressed EROFS image is its digest. The descriptor of a
/// layer that is a compressed EROFS image may state the diff ID. If the diff IDs of all layers are
/// known in one of these ways, the diff IDs in the configuration are ignored. Otherwise, all diff
/// IDs are taken from the configuration.
///
/// # Errors
/// `Corrupt` if the configuration states a root file system of a type other than `layers`, or if
/// its diff IDs are needed and it does not list as many as there are layers. In both cases, the
/// error is `Unsupported` instead if a layer has a media type that
/// [no file system layer has](MediaType::may_be_layer). Also `Unsupported` if the annotation
/// `org.erofs.role` of a layer states a role other than `overlay-lower`.
pub fn layers(manifest: &Manifest, config: &ImageConfig) -> Result<Vec<(Descriptor, Digest)>> {
    let wrong = |why: String| {
        let mut layers = manifest.layers.iter();
        let error = match layers.find(|layer| !layer.media_type.may_be_layer()) {
            Some(other) => not_a_layer(other, "a blob"),
            None => Error::corrupt(why).subject(manifest.config.digest),
        };
        Err(error.operation("pair layers"))
    };
    if !["layers", ""].contains(&config.rootfs_type.as_str()) {
        let found = excerpt(&config.rootfs_type);
        return wrong(format!(
            "expected a root file system of type \"layers\", found \"{found}\"; build the image \
             again"
        ));
    }
    let roles = manifest.layers.iter();
    let mut roles = roles.filter_map(|layer| Some((layer, layer.annotations.get(EROFS_ROLE)?)));
    if let Some((layer, role)) = roles.find(|(_, role)| *role != LOWER) {
        return Err(Error::unsupported(format!(
            "expected a layer that is mounted on the layers below it, found a layer with the role \
             \"{}\"; choose a variant of the image without layers of this role",
            excerpt(role)
        ))
        .operation("pair layers")
        .subject(layer.digest));
    }
    let stated: Option<Vec<_>> = manifest.layers.iter().map(stated_diff_id).collect();
    // If the manifest lists no layers, the configuration must not list diff IDs either.
    if let Some(stated) = stated.filter(|stated| !stated.is_empty()) {
        let layers = manifest.layers.iter().cloned();
        return Ok(layers.zip(stated).collect());
    }
    let (found, expected) = (config.diff_ids.len(), manifest.layers.len());
    if found != expected {
        return wrong(format!(
            "the number of layers in the manifest ({expected}) differs from the number of diff IDs \
             in the configuration ({found}); build the image again"
        ));
    }
    let layers = manifest.layers.iter().cloned();
    Ok(layers.zip(config.diff_ids.iter().copied()).collect())
}

/// Returns the diff ID that the descriptor of a layer states, if the layer is an EROFS image. The
/// diff ID of a layer that is not compressed is its digest.
fn stated_diff_id(layer: &Descriptor) -> Option<Digest> {
    if !layer.media_type.is_erofs() {
        return None;
    }
    let is_plain = layer.media_type.suffixes().next().is_none();
    let plain = is_plain.then_some(layer.digest);
    plain.or_else(|| layer.annotations.get(EROFS_DIFF_ID)?.parse().ok())
}

/// Returns the error of an operation that reads only tars, but was given a layer that is an EROFS
/// image.
pub fn not_a_tar(layer: &Descriptor) -> Error {
    Error::unsupported(format!(
        "expected the tar of a layer, found an EROFS image of type {:.200}; choose the variant of \
         the image whose layers are tars, or mount the image in a root with the snapshotter \
         `erofs://?native=true`",
        layer.media_type
    ))
    .subject(layer.digest)
}

/// Returns the error for a blob that is listed as a layer, but is not the archive of a layer.
/// `found` describes the blob.
pub fn not_a_layer(blob: &Descriptor, found: &str) -> Error {
    let media_type = &blob.media_type;
    let advice = if media_type.may_be_layer() {
        "the image was not built correctly; build it again"
    } else {
        "it belongs to an artifact, such as a signature or an attestation, which has no file system"
    };
    Error::unsupported(format!(
        "expected a layer, found {found} of type {media_type:.200}; {advice}"
    ))
    .subject(blob.digest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_content_says_what_is_a_configuration() {
        const IMAGE: &str = r#"{"os":"linux","architecture":"amd64","rootfs":{"type":"layers"}}"#;
        const BARE: &str = r#"{"config":{},"rootfs":{"type":"layers","diff_ids":null}}"#;
        const PLUGIN: &str = r#"{"Interface":{},"rootfs":{"type":"layers","diff_ids":[]}}"#;
        const MODEL: &str = r#"{"config":{},"descriptor":{},"rootfs":{"type":"layers"}}"#;
        const CHART: &str = r#"{"name":"c","version":"1","apiVersion":"v2"}"#;
        let helm = "application/vnd.cncf.helm.config.v1+json";
        for (media_type, text, expected) in [
            (MediaType::OCI_CONFIG.as_str(), IMAGE, true),
            ("application/octet-stream", IMAGE, true),
            ("application/octet-stream", BARE, true),
            ("application/json", IMAGE, true),
            ("text/plain; charset=utf-8", IMAGE, true),
            ("", BARE, true),
            (
                "application/vnd.docker.container.image.v0+json",
                IMAGE,
                true,
            ),
            ("application/vnd.docker.container.image.v0+json", BARE, true),
            ("application/vnd.example.rocket+json", IMAGE, true),
            ("application/vnd.docker.plugin.v1+json", PLUGIN, false),
            ("application/octet-stream", PLUGIN, false),
            (
                "application/vnd.docker.ai.model.config.v0.1+json",
                MODEL,
                false,
            ),
            (helm, CHART, false),
            ("application/octet-stream", CHART, false),
            ("application/octet-stream", "{}", false),
            ("application/octet-stream", "[]", false),
            ("application/octet-stream", "\0\u{1}", false),
            (MediaType::OCI_EMPTY.as_str(), IMAGE, false),
            (MediaType::OCI_MANIFEST.as_str(), IMAGE, false),
            (
                MediaType::CONTAINERD_CHECKPOINT_CONFIG.as_str(),
                IMAGE,
                false,
            ),
        ] {
            let found = ImageConfig::recognise(&media_type.into(), text.as_bytes());
            assert_eq!(found.unwrap().is_some(), expected, "{media_type} {text}");
        }
        assert!(ImageConfig::recognise(&MediaType::OCI_CONFIG, b"[]").is_err());
    }
}
