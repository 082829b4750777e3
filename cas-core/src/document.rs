//! Manifests and indexes. The parser enforces the bounds of [`limit`]. It refuses a
//! document that could be read both as a manifest and as an index.

mod unknown;

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize};

pub use self::unknown::{left_out, unverifiable_subject};
use self::unknown::{unknown_in_manifest, verifiable, without_unknown};
use crate::descriptor::Descriptor;
use crate::digest::Digest;
use crate::error::{Error, Result, malformed};
use crate::limit;
use crate::media_type::MediaType;
use crate::nulls::{null_is_default, optional_texts};

/// An image manifest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[serde(expecting = "an object")]
pub struct Manifest {
    /// The version of the schema, which is not checked. A valid document states 2, which is also
    /// the default.
    #[serde(default = "version", deserialize_with = "version_or_default")]
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
    #[serde(default, deserialize_with = "null_is_default")]
    pub layers: Vec<Descriptor>,
    /// The manifest or index that this manifest is a referrer of. A subject that
    /// [`unverifiable_subject`] describes is read as `None`.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "verifiable"
    )]
    pub subject: Option<Descriptor>,
    /// Annotations that the author of the document added.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "optional_texts"
    )]
    pub annotations: Option<BTreeMap<String, String>>,
}

/// An image index, or Docker's manifest list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[serde(expecting = "an object")]
pub struct Index {
    /// The version of the schema, which is not checked. A valid document states 2, which is also
    /// the default.
    #[serde(default = "version", deserialize_with = "version_or_default")]
    pub schema_version: u32,
    /// The media type that the document states for itself, if any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media_type: Option<MediaType>,
    /// Type of the artifact, if the index describes one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
    /// Manifests and further indexes.
    #[serde(default, deserialize_with = "null_is_default")]
    pub manifests: Vec<Descriptor>,
    /// The manifest or index that this index is a referrer of. A subject that
    /// [`unverifiable_subject`] describes is read as `None`.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "verifiable"
    )]
    pub subject: Option<Descriptor>,
    /// Annotations that the author of the document added.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "optional_texts"
    )]
    pub annotations: Option<BTreeMap<String, String>>,
}

/// Returns the version of the schema in a document that states none.
fn version() -> u32 {
    2
}

fn version_or_default<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u32, D::Error> {
    Ok(Option::<u32>::deserialize(deserializer)?.unwrap_or_else(version))
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
    /// Parses a document whose descriptor states `media_type`. Leaves out the entries of an index
    /// that [`left_out`] describes, and a subject that [`unverifiable_subject`] describes.
    ///
    /// # Errors
    /// `Unsupported` if `media_type` is not the type of a manifest or an index, if all entries of
    /// an index would be left out, or if a manifest lists a digest whose algorithm is not one of
    /// [`Algorithm`](crate::digest::Algorithm); `Corrupt` if the document is invalid. A document is
    /// invalid if it does not parse, exceeds a bound of [`limit`], or is in Docker's schema 1. It
    /// is invalid if a child has the media type of OCI's empty document, but not the digest and the
    /// size of `{}`.
    ///
    /// If `media_type` is the type of a manifest, a document is also invalid if it has the member
    /// `manifests`, or states a media type that is not the type of a manifest. If `media_type` is
    /// the type of an index, a document is also invalid if it has the member `config` or `layers`,
    /// or states a media type that is not the type of an index. These rules prevent CVE-2021-41190.
    pub fn parse(media_type: &MediaType, data: &[u8]) -> Result<Self> {
        Self::read(media_type, data).map_err(|error| error.operation("parse document"))
    }

    fn read(media_type: &MediaType, data: &[u8]) -> Result<Self> {
        if !media_type.is_document() {
            return Err(Error::unsupported(format!(
                "expected the media type of a manifest or an index, found {media_type:.200}; \
                 correct the descriptor"
            )));
        }
        check_json(data)?;
        check_shape(media_type, data)?;
        let document = if media_type.is_index() {
            Document::Index(Box::new(index(data)?))
        } else {
            Document::Manifest(manifest(data)?)
        };
        let listed = document.children().count();
        if listed > limit::DESCRIPTORS {
            let allowed = limit::DESCRIPTORS;
            return Err(Error::corrupt(format!(
                "the document lists {listed} descriptors; at most {allowed} are allowed; split it"
            )));
        }
        document.children().try_for_each(check_empty)?;
        match &document {
            Document::Manifest(manifest) if manifest.layers.len() > limit::LAYERS => {
                let (found, allowed) = (manifest.layers.len(), limit::LAYERS);
                Err(Error::corrupt(format!(
                    "the manifest has {found} layers; at most {allowed} are allowed; build the \
                     image with fewer"
                )))
            }
            _ => Ok(document),
        }
    }

    /// Returns the subject: the manifest or index that the document is a referrer of. Returns
    /// `None` if the document is not a referrer, or if [`unverifiable_subject`] describes its
    /// subject.
    pub fn subject(&self) -> Option<&Descriptor> {
        match self {
            Document::Manifest(manifest) => manifest.subject.as_ref(),
            Document::Index(index) => index.subject.as_ref(),
        }
    }

    /// Returns the entry for the document in a list of referrers. `own` is the descriptor of the
    /// document. The entry has the media type, the digest and the size of `own`. It has the
    /// annotations and the artifact type that the document states. If a manifest states no artifact
    /// type, the artifact type of the entry is the media type of the configuration.
    pub fn listed_as_referrer(&self, own: &Descriptor) -> Descriptor {
        let (stated, config, annotations) = match self {
            Document::Manifest(manifest) => {
                let config = manifest.config.media_type.as_str();
                (&manifest.artifact_type, config, &manifest.annotations)
            }
            Document::Index(index) => (&index.artifact_type, "", &index.annotations),
        };
        let stated = stated.as_deref().filter(|stated| !stated.is_empty());
        let artifact_type = stated.unwrap_or(config);
        let mut entry = Descriptor::new(own.media_type.clone(), own.digest, own.size);
        entry.artifact_type = Some(artifact_type.to_owned()).filter(|stated| !stated.is_empty());
        entry.annotations = annotations.clone().unwrap_or_default();
        entry
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

/// Checks that a child with the media type of OCI's empty document is that document, the two bytes
/// `{}`.
fn check_empty(descriptor: &Descriptor) -> Result<()> {
    let digest = Digest::of(descriptor.digest.algorithm(), b"{}");
    if descriptor.media_type != MediaType::OCI_EMPTY
        || (descriptor.digest == digest && descriptor.size == 2)
    {
        return Ok(());
    }
    Err(Error::corrupt(format!(
        "the empty JSON document must have the digest {digest} and 2 bytes, but its descriptor \
         states {} and {} bytes; build the image again",
        descriptor.digest, descriptor.size
    )))
}

/// The members that distinguish the kinds of documents.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
#[serde(expecting = "an object")]
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
            "the manifest is in Docker's schema 1, which is not supported; convert the image first",
        ));
    }
    let (foreign, claims_other): (_, fn(&MediaType) -> bool) = if expected.is_index() {
        let foreign = shape.config.is_some() || shape.layers.is_some();
        (foreign, |claimed| !claimed.is_index())
    } else {
        (shape.manifests.is_some(), |claimed| !claimed.is_manifest())
    };
    let own = match expected.is_index() {
        true => shape.manifests.is_some(),
        false => shape.config.is_some() || shape.layers.is_some(),
    };
    if foreign && own {
        return Err(Error::corrupt(
            "the document has members of both a manifest and an index; build the image again",
        ));
    }
    match shape.media_type {
        Some(claimed) if !claimed.as_str().is_empty() && claims_other(&claimed) => {
            Err(Error::corrupt(format!(
                "expected the type {expected:.200}, but the document states {claimed:.200}; build \
                 the image again"
            )))
        }
        _ if foreign => Err(Error::corrupt(format!(
            "expected the type {expected:.200}, but the document has the members of another type; \
             correct the descriptor"
        ))),
        _ => Ok(()),
    }
}

/// Checks the size and the depth of a JSON document before it is parsed. Does not check whether
/// `data` is JSON.
///
/// # Errors
/// `Corrupt` if `data` has more than [`limit::DOCUMENT_READ`] bytes, or is nested deeper than
/// [`limit::JSON_DEPTH`] levels.
pub fn check_json(data: &[u8]) -> Result<()> {
    if data.len() as u64 > limit::DOCUMENT_READ {
        let (found, allowed) = (data.len(), limit::DOCUMENT_READ);
        return Err(Error::corrupt(format!(
            "the JSON document has {found} bytes; at most {allowed} are allowed; use a smaller \
             document"
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
                "the JSON document is nested too deep; at most {allowed} levels are allowed; use a \
                 document with fewer levels"
            )));
        }
    }
    Ok(())
}

/// What to do about a document whose digests have unknown algorithms.
const KNOWN_ALGORITHMS: &str = "build the image again with one of these algorithms";

/// Parses a manifest and returns it.
fn manifest(data: &[u8]) -> Result<Box<Manifest>> {
    decode(data).map_err(|error| match unknown_in_manifest(data) {
        Some(what) => Error::unsupported(what).advice(KNOWN_ALGORITHMS),
        None => error,
    })
}

/// Parses an index and returns it. An entry without a media type counts as a manifest, because
/// indexes of old versions of the specification leave the type out.
fn index(data: &[u8]) -> Result<Index> {
    let mut index: Index = match decode(data) {
        Err(error) => match without_unknown(data) {
            Some((index, what)) if index.manifests.is_empty() => {
                return Err(Error::unsupported(what).advice(KNOWN_ALGORITHMS));
            }
            Some((index, _)) => index,
            None => return Err(error),
        },
        decoded => decoded?,
    };
    for entry in &mut index.manifests {
        if entry.media_type.as_str().is_empty() {
            entry.media_type = MediaType::OCI_MANIFEST;
        }
    }
    Ok(index)
}

fn decode<'a, T: Deserialize<'a>>(data: &'a [u8]) -> Result<T> {
    serde_json::from_slice(data).map_err(|error| malformed("not a valid document", &error))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

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
    fn null_and_absent_members_have_the_value_that_their_writer_means() {
        let descriptor = format!(
            r#"{{"mediaType":null,"digest":"{}","size":0,"urls":null,"annotations":{{"a":null}},
                "platform":{{"os":null,"os.features":null}}}}"#,
            crate::digest::Digest::sha256(b"")
        );
        for layers in ["", r#","layers":null"#, r#","layers":[]"#] {
            let text = format!(r#"{{"config":{descriptor},"annotations":null{layers}}}"#);
            let document = Document::parse(&MediaType::OCI_MANIFEST, text.as_bytes()).unwrap();
            let Document::Manifest(manifest) = document else {
                panic!("{text} is not a manifest");
            };
            assert_eq!((manifest.schema_version, manifest.layers.len()), (2, 0));
            assert_eq!(manifest.config.platform, None);
            assert_eq!(manifest.config.annotations["a"], "");
            assert_eq!(manifest.config.media_type.as_str(), "");
        }
        let text = format!(r#"{{"schemaVersion":null,"manifests":[{descriptor}]}}"#);
        let document = Document::parse(&MediaType::OCI_INDEX, text.as_bytes()).unwrap();
        let entry = document.children().next().unwrap();
        assert_eq!(entry.media_type, MediaType::OCI_MANIFEST);
        for empty in ["{}", r#"{"manifests":null}"#] {
            let document = Document::parse(&MediaType::DOCKER_MANIFEST_LIST, empty.as_bytes());
            assert_eq!(document.unwrap().children().count(), 0);
        }
    }

    #[test]
    fn entries_with_digests_of_unknown_algorithms_are_left_out() {
        let known = format!(r#"{{"digest":"{}","size":0}}"#, Digest::sha256(b""));
        let other = r#"{"digest":"sha384:00","size":2}"#;
        let index = |entries: &[&str]| format!(r#"{{"manifests":[{}]}}"#, entries.join(","));
        let parse = |text: &str| Document::parse(&MediaType::OCI_INDEX, text.as_bytes());
        let (both, only_known) = (index(&[other, &known]), index(&[&known]));
        assert_eq!(parse(&both).unwrap(), parse(&only_known).unwrap());
        assert_eq!(
            left_out(both.as_bytes()).unwrap(),
            "expected sha256 or sha512 in the digests of the entries, found \"sha384:00\" (number of \
             such entries: 1)"
        );
        assert_eq!(left_out(only_known.as_bytes()), None);
        let refused = |text: &str| parse(text).unwrap_err().kind();
        assert_eq!(refused(&index(&[other])), ErrorKind::Unsupported);
        // A damaged digest does not have another algorithm, and nothing may be stated twice.
        let damaged = other.replace("sha384", "sha256");
        let twice = other.replace("{", &format!(r#"{{"digest":"{}","#, Digest::sha256(b"")));
        let size_twice = known.replace("{", r#"{"size":1,"#);
        for bad in [damaged, twice, size_twice] {
            assert_eq!(refused(&index(&[other, &known, &bad])), ErrorKind::Corrupt);
        }
        let twice = both.replace("]}", r#"],"annotations":{},"annotations":{}}"#);
        assert_eq!(refused(&twice), ErrorKind::Corrupt);
    }

    #[test]
    fn digests_of_unknown_algorithms_in_a_manifest_are_named() {
        let blob = |digest: &str| format!(r#"{{"digest":"{digest}","size":0}}"#);
        let known = blob(&Digest::sha256(b"").to_string());
        let refused = |members: &str| {
            let text = format!("{{{members}}}");
            Document::parse(&MediaType::OCI_MANIFEST, text.as_bytes()).unwrap_err()
        };
        let other = blob("blake3:00");
        for (members, count) in [
            (format!(r#""config":{other}"#), 1),
            (format!(r#""config":{known},"layers":[{known},{other}]"#), 1),
            (format!(r#""config":{other},"layers":[{other}]"#), 2),
        ] {
            let error = refused(&members);
            assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
            assert_eq!(
                error.to_string(),
                format!(
                    "parse document failed: expected sha256 or sha512 in the digests of the blobs, \
                     found \"blake3:00\" (number of such blobs: {count}); build the image again \
                     with one of these algorithms"
                )
            );
        }
        // A damaged digest does not have another algorithm, and nothing may be stated twice.
        let damaged = blob("sha256:00");
        for members in [
            format!(r#""config":{other},"layers":[{damaged}]"#),
            format!(r#""config":{other},"config":{known}"#),
            format!(r#""layers":[{other}]"#),
        ] {
            assert_eq!(refused(&members).kind(), ErrorKind::Corrupt, "{members}");
        }
    }

    #[test]
    fn a_subject_with_a_digest_of_an_unknown_algorithm_is_left_out() {
        let blob = |digest: &str| format!(r#"{{"digest":"{digest}","size":2}}"#);
        let known = blob(&Digest::sha256(b"{}").to_string());
        let other = blob("sha384:00");
        let entries = format!(r#""manifests":[{known},{other}]"#);
        let config = format!(r#""config":{known}"#);
        for (kind, members) in [
            (&MediaType::OCI_MANIFEST, &config),
            (&MediaType::OCI_INDEX, &format!(r#""manifests":[{known}]"#)),
            (&MediaType::OCI_INDEX, &entries),
        ] {
            let with = |subject: &str| format!(r#"{{{members},"subject":{subject}}}"#);
            let parse = |text: &str| Document::parse(kind, text.as_bytes());
            let alone = parse(&format!("{{{members}}}")).unwrap();
            assert_eq!(parse(&with(&other)).unwrap(), alone);
            assert_eq!(
                unverifiable_subject(with(&other).as_bytes()).unwrap(),
                "expected sha256 or sha512 in the digest of the subject, found \"sha384:00\""
            );
            let kept = parse(&with(&known)).unwrap();
            let subject = kept.subject().map(|subject| subject.digest);
            assert_eq!(subject, Some(Digest::sha256(b"{}")));
            assert_eq!(unverifiable_subject(with(&known).as_bytes()), None);
            // A damaged digest does not have another algorithm, and nothing may be stated twice.
            let twice = other.replace('{', r#"{"digest":"sha384:00","#);
            let again = format!(r#"{other},"subject":{known}"#);
            for bad in [blob("sha256:00"), twice, again] {
                assert_eq!(parse(&with(&bad)).unwrap_err().kind(), ErrorKind::Corrupt);
            }
        }
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
