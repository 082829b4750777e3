//! The configuration of an image, as far as it matters to storing and unpacking.

use serde::Deserialize;

use crate::content::ContentStore;
use crate::descriptor::Descriptor;
use crate::digest::Digest;
use crate::dispatch::read;
use crate::document::{Manifest, check_json};
use crate::error::{Context, Error, Result, excerpt, malformed};
use crate::limit;
use crate::platform::Platform;

/// The platform and the layers that an image configuration states.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageConfig {
    /// The platform, normalized. Members that the configuration does not state are empty.
    pub platform: Platform,
    /// The type of the root file system, which should be `layers`.
    pub rootfs_type: String,
    /// The diff ids: digests of the uncompressed layers, lowest first.
    pub diff_ids: Vec<Digest>,
}

#[derive(Deserialize)]
struct Raw {
    #[serde(default)]
    os: String,
    #[serde(default)]
    architecture: String,
    #[serde(default)]
    variant: Option<String>,
    #[serde(rename = "os.version", default)]
    os_version: Option<String>,
    #[serde(rename = "os.features", default)]
    os_features: Option<Vec<String>>,
    #[serde(default)]
    rootfs: Option<RawRootFs>,
}

#[derive(Deserialize, Default)]
struct RawRootFs {
    #[serde(rename = "type", default)]
    kind: String,
    /// Go writes an empty list as `null`.
    #[serde(default)]
    diff_ids: Option<Vec<Digest>>,
}

impl ImageConfig {
    /// Parses a configuration. Unknown members are ignored.
    ///
    /// # Errors
    /// `Corrupt` if it does not parse or exceeds the bounds of [`limit`].
    pub fn parse(data: &[u8]) -> Result<Self> {
        check_json(data)?;
        // serde would also accept an array of the members.
        if !data.trim_ascii_start().starts_with(b"{") {
            return Err(Error::corrupt("not a JSON object"));
        }
        let raw: Raw = serde_json::from_slice(data)
            .map_err(|error| malformed("not an image configuration", &error))?;
        let rootfs = raw.rootfs.unwrap_or_default();
        let diff_ids = rootfs.diff_ids.unwrap_or_default();
        if diff_ids.len() > limit::LAYERS {
            let (found, allowed) = (diff_ids.len(), limit::LAYERS);
            return Err(Error::corrupt(format!(
                "has {found} diff ids: at most {allowed} are allowed"
            )));
        }
        let platform = Platform {
            os: raw.os,
            architecture: raw.architecture,
            variant: raw.variant,
            os_version: raw.os_version,
            os_features: raw.os_features.unwrap_or_default(),
        };
        Ok(ImageConfig {
            platform: platform.normalized(),
            rootfs_type: rootfs.kind,
            diff_ids,
        })
    }
}

/// Returns the configuration that a descriptor refers to.
///
/// # Errors
/// `NotFound`; `Corrupt`; `Unsupported` if the descriptor has another type.
pub async fn image_config(content: &dyn ContentStore, config: &Descriptor) -> Result<ImageConfig> {
    if !config.media_type.is_config() {
        let found = &config.media_type;
        return Err(Error::unsupported(format!(
            "expected an image configuration, found {found:.200}"
        ))
        .operation("read configuration")
        .subject(config.digest));
    }
    let data = read(content, config).await?;
    ImageConfig::parse(&data).during("read configuration", config.digest)
}

/// Returns the platform that a configuration states, normalized.
///
/// # Errors
/// As [`image_config`].
pub async fn config_platform(content: &dyn ContentStore, config: &Descriptor) -> Result<Platform> {
    Ok(image_config(content, config).await?.platform)
}

/// Returns the diff ids that a configuration lists, lowest layer first.
///
/// # Errors
/// As [`image_config`].
pub async fn rootfs(content: &dyn ContentStore, config: &Descriptor) -> Result<Vec<Digest>> {
    Ok(image_config(content, config).await?.diff_ids)
}

/// Returns the layers of an image, lowest first, each with its diff id.
///
/// # Errors
/// `Corrupt` if the manifest and the configuration do not list the same number of layers, or the
/// root file system is not of type `layers`.
pub fn layers(manifest: &Manifest, config: &ImageConfig) -> Result<Vec<(Descriptor, Digest)>> {
    let wrong = |why: String| {
        let digest = manifest.config.digest;
        Err(Error::corrupt(why).operation("pair layers").subject(digest))
    };
    if config.rootfs_type != "layers" {
        let found = excerpt(&config.rootfs_type);
        return wrong(format!(
            "expected a root file system of type \"layers\", found \"{found}\""
        ));
    }
    let (found, expected) = (config.diff_ids.len(), manifest.layers.len());
    if found != expected {
        return wrong(format!(
            "the manifest lists {expected} layers, but the configuration lists {found} diff ids"
        ));
    }
    let layers = manifest.layers.iter().cloned();
    Ok(layers.zip(config.diff_ids.iter().copied()).collect())
}
