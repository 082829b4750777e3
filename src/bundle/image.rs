//! The part of an image's configuration that describes the process to run.

use std::collections::BTreeMap;

use cas_core::document::check_json;
use cas_core::error::malformed;
use cas_core::nulls::texts;
use cas_core::{Labels, Result};
use serde::Deserialize;

/// The settings of an image for the process that runs in it.
#[derive(Debug, Default)]
pub(crate) struct Config {
    pub(super) user: String,
    pub(super) env: Vec<String>,
    pub(super) entrypoint: Vec<String>,
    pub(super) cmd: Vec<String>,
    pub(super) working_dir: String,
    /// The image's labels, and the annotations that the image-spec derives from other members.
    pub(super) annotations: Labels,
}

/// The document. Members may be `null`, because Go writes empty ones in this way.
#[derive(Deserialize)]
#[serde(expecting = "an object")]
struct Raw {
    os: Option<String>,
    architecture: Option<String>,
    variant: Option<String>,
    #[serde(rename = "os.version")]
    os_version: Option<String>,
    #[serde(rename = "os.features")]
    os_features: Option<Vec<String>>,
    author: Option<String>,
    created: Option<String>,
    config: Option<RawConfig>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
#[serde(expecting = "an object")]
struct RawConfig {
    user: Option<String>,
    env: Option<Vec<String>>,
    entrypoint: Option<Vec<String>>,
    cmd: Option<Vec<String>>,
    working_dir: Option<String>,
    #[serde(default, deserialize_with = "texts")]
    labels: Labels,
    stop_signal: Option<String>,
    exposed_ports: Option<BTreeMap<String, serde_json::Value>>,
}

impl Config {
    /// Parses a configuration. Ignores unknown members.
    ///
    /// # Errors
    /// `Corrupt` if `data` is not an image configuration, or exceeds a bound on JSON documents.
    pub(crate) fn parse(data: &[u8]) -> Result<Self> {
        check_json(data)?;
        let raw: Raw = serde_json::from_slice(data)
            .map_err(|error| malformed("not an image configuration", &error))?;
        let config = raw.config.unwrap_or_default();
        let ports = config.exposed_ports.unwrap_or_default();
        let ports: Vec<String> = ports.into_keys().collect();
        let implied = [
            ("os", raw.os),
            ("architecture", raw.architecture),
            ("variant", raw.variant),
            ("os.version", raw.os_version),
            ("os.features", raw.os_features.map(|all| all.join(","))),
            ("author", raw.author),
            ("created", raw.created),
            ("stopSignal", config.stop_signal),
            ("exposedPorts", Some(ports.join(","))),
        ];
        let mut annotations = config.labels;
        for (name, value) in implied {
            if let Some(value) = value.filter(|value| !value.is_empty()) {
                let key = format!("org.opencontainers.image.{name}");
                annotations.entry(key).or_insert(value);
            }
        }
        Ok(Config {
            user: config.user.unwrap_or_default(),
            env: config.env.unwrap_or_default(),
            entrypoint: config.entrypoint.unwrap_or_default(),
            cmd: config.cmd.unwrap_or_default(),
            working_dir: config.working_dir.unwrap_or_default(),
            annotations,
        })
    }
}
