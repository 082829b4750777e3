//! Manifests and indexes. They are parsed within bounds, and refused if they could be read as both.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::descriptor::Descriptor;
use crate::error::{Error, Result, malformed};
use crate::limit;
use crate::media_type::MediaType;

/// An image manifest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    /// The version of the schema: 2 in a valid document. It is not checked.
    pub schema_version: u32,
    /// The media type that the document states for itself, if any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media_type: Option<MediaType>,
    /// Type of the artifact, if the manifest describes one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
    /// The configuration.
    pub config: Descriptor,
    /// The layers, lowest first.
    pub layers: Vec<Descriptor>,
    /// The manifest that this one refers to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<Descriptor>,
    /// Annotations of its author.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub annotations: Option<BTreeMap<String, String>>,
}

/// An image index, or Docker's manifest list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Index {
    /// The version of the schema: 2 in a valid document. It is not checked.
    pub schema_version: u32,
    /// The media type that the document states for itself, if any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media_type: Option<MediaType>,
    /// Type of the artifact, if the index describes one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
    /// Manifests and further indexes.
    pub manifests: Vec<Descriptor>,
    /// The manifest that this index refers to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<Descriptor>,
    /// Annotations of its author.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub annotations: Option<BTreeMap<String, String>>,
}

/// A document that lists other content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Document {
    /// A manifest.
    Manifest(Box<Manifest>),
    /// An index.
    Index(Box<Index>),
}

impl Document {
    /// Parses a document whose descriptor states `media_type`.
    ///
    /// # Errors
    /// `Corrupt` if it does not parse, exceeds a bound of [`limit`], is in Docker's schema 1, or
    /// has a media type or members that belong to another kind of document than `media_type`
    /// (CVE-2021-41190); `Unsupported` if `media_type` is neither an index nor a manifest.
    pub fn parse(media_type: &MediaType, data: &[u8]) -> Result<Self> {
        Self::read(media_type, data).map_err(|error| error.operation("parse document"))
    }

    fn read(media_type: &MediaType, data: &[u8]) -> Result<Self> {
        if !media_type.is_document() {
            return Err(Error::unsupported(
                "expected the media type of a manifest or an index",
            ));
        }
        check_json(data)?;
        check_shape(media_type, data)?;
        let document = if media_type.is_index() {
            Document::Index(decode(data)?)
        } else {
            Document::Manifest(decode(data)?)
        };
        let listed = document.children().count();
        if listed > limit::DESCRIPTORS {
            let allowed = limit::DESCRIPTORS;
            return Err(Error::corrupt(format!(
                "lists {listed} descriptors: at most {allowed} are allowed"
            )));
        }
        match &document {
            Document::Manifest(manifest) if manifest.layers.len() > limit::LAYERS => {
                let (found, allowed) = (manifest.layers.len(), limit::LAYERS);
                Err(Error::corrupt(format!(
                    "has {found} layers: at most {allowed} are allowed"
                )))
            }
            _ => Ok(document),
        }
    }

    /// Returns what the document lists: the configuration and the layers in order, or the
    /// manifests.
    pub fn children(&self) -> impl Iterator<Item = &Descriptor> {
        let (config, rest) = match self {
            Document::Manifest(manifest) => (Some(&manifest.config), &manifest.layers),
            Document::Index(index) => (None, &index.manifests),
        };
        config.into_iter().chain(rest)
    }
}

/// The members that distinguish the kinds of documents.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Shape {
    media_type: Option<MediaType>,
    fs_layers: Option<serde::de::IgnoredAny>,
    config: Option<serde::de::IgnoredAny>,
    layers: Option<serde::de::IgnoredAny>,
    manifests: Option<serde::de::IgnoredAny>,
}

fn check_shape(expected: &MediaType, data: &[u8]) -> Result<()> {
    let shape: Shape = decode(data)?;
    if shape.fs_layers.is_some() {
        return Err(Error::corrupt(
            "is in Docker's schema 1, which is not supported; convert the image first",
        ));
    }
    let (foreign, claims_other): (_, fn(&MediaType) -> bool) = if expected.is_index() {
        let foreign = shape.config.is_some() || shape.layers.is_some();
        (foreign, |claimed| !claimed.is_index())
    } else {
        (shape.manifests.is_some(), |claimed| !claimed.is_manifest())
    };
    if foreign {
        return Err(Error::corrupt(
            "is ambiguous: it has members of both a manifest and an index; build the image again",
        ));
    }
    match shape.media_type {
        Some(claimed) if !claimed.as_str().is_empty() && claims_other(&claimed) => {
            Err(Error::corrupt(format!(
                "expected the type {expected:.200}, but the document states {claimed:.200}"
            )))
        }
        _ => Ok(()),
    }
}

/// Checks that `data` is within the bounds of a document, before it is given to a parser.
///
/// # Errors
/// `Corrupt`, naming the bound that is exceeded.
pub fn check_json(data: &[u8]) -> Result<()> {
    if data.len() as u64 > limit::DOCUMENT_READ {
        let (found, allowed) = (data.len(), limit::DOCUMENT_READ);
        return Err(Error::corrupt(format!(
            "has {found} bytes: at most {allowed} are allowed"
        )));
    }
    let (mut depth, mut in_string, mut escaped) = (0usize, false, false);
    for byte in data {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            b'[' | b'{' if !in_string => depth += 1,
            b']' | b'}' if !in_string => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth > limit::JSON_DEPTH {
            let allowed = limit::JSON_DEPTH;
            return Err(Error::corrupt(format!(
                "is nested too deep: at most {allowed} levels are allowed"
            )));
        }
    }
    Ok(())
}

fn decode<'a, T: Deserialize<'a>>(data: &'a [u8]) -> Result<T> {
    serde_json::from_slice(data).map_err(|error| malformed("not a valid document", &error))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest(extra: &str) -> String {
        let descriptor = format!(
            r#"{{"mediaType":"a/b","digest":"{}","size":0}}"#,
            crate::digest::Digest::sha256(b"")
        );
        format!(r#"{{"schemaVersion":2,"config":{descriptor},"layers":[{descriptor}]{extra}}}"#)
    }

    #[test]
    fn reads_manifests_and_indexes_of_both_families() {
        for kind in [MediaType::OCI_MANIFEST, MediaType::DOCKER_MANIFEST] {
            let document = Document::parse(&kind, manifest("").as_bytes()).unwrap();
            assert_eq!(document.children().count(), 2);
        }
        let index = br#"{"schemaVersion":2,"manifests":[]}"#;
        assert!(Document::parse(&MediaType::DOCKER_MANIFEST_LIST, index).is_ok());
    }

    #[test]
    fn ambiguous_documents_are_refused() {
        let refused = |kind: &MediaType, text: &str| {
            let error = Document::parse(kind, text.as_bytes()).unwrap_err();
            assert_eq!(error.kind(), crate::error::ErrorKind::Corrupt, "{text}");
        };
        let manifest_kind = MediaType::OCI_MANIFEST;
        refused(&manifest_kind, &manifest(r#","manifests":[]"#));
        refused(
            &manifest_kind,
            &manifest(&format!(r#","mediaType":"{}""#, MediaType::OCI_INDEX)),
        );
        refused(&manifest_kind, &manifest(r#","layers":[]"#));
        refused(&manifest_kind, &format!("\u{feff}{}", manifest("")));
        refused(&manifest_kind, &format!("{} x", manifest("")));
        refused(&manifest_kind, r#"{"schemaVersion":1,"fsLayers":[]}"#);
        refused(
            &MediaType::OCI_INDEX,
            r#"{"schemaVersion":2,"manifests":[],"layers":[]}"#,
        );
        refused(
            &MediaType::OCI_INDEX,
            r#"{"schemaVersion":2,"manifests":[],"config":{}}"#,
        );
        refused(&MediaType::OCI_INDEX, &"[".repeat(100_000));
    }
}
