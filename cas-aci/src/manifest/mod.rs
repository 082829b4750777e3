//! The image manifest of the appc specification.

mod app;
mod identifier;

use std::collections::BTreeSet;

use cas_core::document::check_json;
use cas_core::error::{excerpt, malformed};
use cas_core::nulls::null_is_default;
use cas_core::{Error, ErrorKind, Platform, Result, limit};
use serde::Deserialize;

use crate::key::KeyPrefix;
pub use app::{App, EventHandler, MountPoint, Port};
pub use identifier::check_identifier;

/// The parsed manifest of an ACI. The parser ignores members of the JSON object that are not fields
/// of this type. The store keeps the bytes of the manifest unchanged.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
#[serde(expecting = "an object")]
#[non_exhaustive]
pub struct ImageManifest {
    /// Always `ImageManifest`.
    pub ac_kind: String,
    /// The version of the specification, such as `0.8.11`.
    pub ac_version: String,
    /// The name of the image.
    pub name: String,
    /// Labels, such as `version`, `os` and `arch`. Each label has a different name.
    #[serde(default, deserialize_with = "null_is_default")]
    pub labels: Vec<Label>,
    /// How the image is run, or `None` if it cannot be run.
    #[serde(default)]
    pub app: Option<App>,
    /// The images that this image is built on, lowest first.
    #[serde(default, deserialize_with = "null_is_default")]
    pub dependencies: Vec<Dependency>,
    /// Absolute paths. If the list is not empty, the image contains only these paths and the
    /// directories above them.
    #[serde(default, deserialize_with = "null_is_default")]
    pub path_whitelist: Vec<String>,
    /// Annotations.
    #[serde(default, deserialize_with = "null_is_default")]
    pub annotations: Vec<Label>,
}

/// A name and its value: a label, an annotation or a variable.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(expecting = "an object")]
#[non_exhaustive]
pub struct Label {
    /// The name.
    pub name: String,
    /// The value.
    #[serde(default, deserialize_with = "null_is_default")]
    pub value: String,
}

impl Label {
    /// Returns the label with this name and value.
    pub fn new(name: impl Into<String>, value: impl Into<String>) -> Self {
        Label {
            name: name.into(),
            value: value.into(),
        }
    }
}

/// An image that another image is built on.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
#[serde(expecting = "an object")]
#[non_exhaustive]
pub struct Dependency {
    /// The name of the image.
    pub image_name: String,
    /// The key of the image, or the first digits of the key. Empty if the manifest does not state a
    /// key.
    #[serde(rename = "imageID", default, deserialize_with = "null_is_default")]
    pub image_id: String,
    /// Labels that the image must have.
    #[serde(default, deserialize_with = "null_is_default")]
    pub labels: Vec<Label>,
}

impl ImageManifest {
    /// Parses and checks a manifest.
    ///
    /// # Errors
    /// `Corrupt` if the manifest has more than [`limit::ACI_MANIFEST`] bytes or does not parse, if
    /// a list has more than [`limit::ACI_LIST`] entries, if a value is invalid, or if the image
    /// depends on itself.
    pub fn parse(data: &[u8]) -> Result<Self> {
        let parsed = Self::parse_checked(data);
        parsed.map_err(|error| error.operation("read image manifest"))
    }

    fn parse_checked(data: &[u8]) -> Result<Self> {
        check_size(data.len() as u64)?;
        check_json(data)?;
        let manifest: ImageManifest = serde_json::from_slice(data)
            .map_err(|error| malformed("the manifest does not parse", &error))?;
        let checked = manifest.check();
        checked.map_err(|error| match error.kind() {
            ErrorKind::InvalidArgument => Error::corrupt(format!("{error}; build the ACI again")),
            _ => error,
        })?;
        Ok(manifest)
    }

    /// Returns the value of a label, or `None` if the image does not have the label.
    pub fn label(&self, name: &str) -> Option<&str> {
        let found = self.labels.iter().find(|label| label.name == name);
        found.map(|label| label.value.as_str())
    }

    /// Returns whether the image has all of `labels`, with their values.
    pub fn has_labels(&self, labels: &[Label]) -> bool {
        labels.iter().all(|label| self.labels.contains(label))
    }

    /// Returns the platform that the labels `os` and `arch` state. The architecture `i386` becomes
    /// `386`, `aarch64` becomes `arm64`, and `armv6l` and `armv7l` become `arm` with the variant
    /// `v6` or `v7`. Other values stay unchanged. If a label is missing, the corresponding field of
    /// the platform is empty.
    pub fn platform(&self) -> Platform {
        let arch = self.label("arch").unwrap_or_default();
        let (architecture, variant) = match arch {
            "i386" => ("386", None),
            "aarch64" => ("arm64", None),
            "armv6l" => ("arm", Some("v6")),
            "armv7l" => ("arm", Some("v7")),
            other => (other, None),
        };
        Platform {
            os: self.label("os").unwrap_or_default().to_owned(),
            architecture: architecture.to_owned(),
            variant: variant.map(str::to_owned),
            ..Platform::default()
        }
    }

    fn check(&self) -> Result<()> {
        if self.ac_kind != "ImageManifest" {
            let found = excerpt(&self.ac_kind);
            return Err(Error::invalid(format!(
                "expected acKind ImageManifest, found \"{found}\""
            )));
        }
        check_version(&self.ac_version)?;
        check_identifier(&self.name)?;
        check_labels(&self.labels)?;
        check_count("annotations", self.annotations.len())?;
        check_count("dependencies", self.dependencies.len())?;
        check_count("paths in pathWhitelist", self.path_whitelist.len())?;
        for dependency in &self.dependencies {
            check_identifier(&dependency.image_name)?;
            check_labels(&dependency.labels)?;
            if !dependency.image_id.is_empty() {
                let key = dependency.image_id.parse::<KeyPrefix>();
                key.map_err(|_| {
                    let found = excerpt(&dependency.image_id);
                    Error::invalid(format!(
                        "expected sha512- and 2 to 128 lower-case hexadecimal digits as an \
                         imageID, found \"{found}\""
                    ))
                })?;
            }
            if self.is(dependency) {
                let why = "the image depends on itself";
                return Err(Error::invalid(why).subject(&self.name));
            }
        }
        for path in &self.path_whitelist {
            check_path(path)?;
        }
        self.app.as_ref().map_or(Ok(()), App::check)
    }

    /// Returns whether a dependency is the image itself: the dependency states no key, and the
    /// image has the name and the labels that the dependency states.
    fn is(&self, dependency: &Dependency) -> bool {
        let same = dependency.image_name == self.name && self.has_labels(&dependency.labels);
        same && dependency.image_id.is_empty()
    }
}

/// Checks the size of a manifest, `found`, in bytes.
///
/// # Errors
/// `Corrupt` if it exceeds [`limit::ACI_MANIFEST`].
pub(crate) fn check_size(found: u64) -> Result<()> {
    if found <= limit::ACI_MANIFEST {
        return Ok(());
    }
    let allowed = limit::ACI_MANIFEST;
    Err(Error::corrupt(format!(
        "the manifest has {found} bytes, at most {allowed} are allowed; build the ACI again"
    )))
}

/// Checks that a version begins with three numbers with points between them. After the numbers, a
/// `-` or `+` and any text may follow.
fn check_version(text: &str) -> Result<()> {
    let numbers = text.split(['-', '+']).next().unwrap_or_default();
    let is_number = |part: &str| part.parse::<u32>().is_ok() && !part.starts_with('+');
    let parts: Vec<&str> = numbers.split('.').collect();
    if parts.len() == 3 && parts.into_iter().all(is_number) {
        return Ok(());
    }
    let found = excerpt(text);
    Err(Error::invalid(format!(
        "expected an acVersion like 0.8.11, found \"{found}\""
    )))
}

fn check_labels(labels: &[Label]) -> Result<()> {
    check_count("labels", labels.len())?;
    let mut seen = BTreeSet::new();
    for label in labels {
        check_identifier(&label.name)?;
        if label.name == "name" {
            return Err(Error::invalid("a label must not be called \"name\""));
        }
        if label.value.len() > limit::LABEL {
            let (found, allowed) = (label.value.len(), limit::LABEL);
            return Err(Error::invalid(format!(
                "the value of the label {:?} has {found} bytes, at most {allowed} are allowed",
                label.name
            )));
        }
        if !seen.insert(&label.name) {
            return Err(Error::invalid(format!(
                "the label {:?} occurs twice",
                label.name
            )));
        }
    }
    Ok(())
}

pub(super) fn check_count(what: &str, found: usize) -> Result<()> {
    if found <= limit::ACI_LIST {
        return Ok(());
    }
    let allowed = limit::ACI_LIST;
    Err(Error::invalid(format!(
        "found {found} {what}, at most {allowed} are allowed"
    )))
}

/// Checks that a path is absolute, has neither `..` nor NUL, and has at most [`limit::PATH`] bytes.
pub(super) fn check_path(path: &str) -> Result<()> {
    let goes_up = path.split('/').any(|name| name == "..");
    if path.starts_with('/') && !goes_up && path.len() <= limit::PATH && !path.contains('\0') {
        return Ok(());
    }
    let allowed = limit::PATH;
    Err(Error::invalid(format!(
        "expected an absolute path of at most {allowed} bytes, with neither `..` nor NUL"
    ))
    .subject(format!("\"{}\"", excerpt(path))))
}

#[cfg(test)]
mod tests;
