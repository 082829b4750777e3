//! Digests of unknown algorithms in documents.

use serde::de::Error as _;
use serde::{Deserialize, Deserializer};

use super::Index;
use crate::descriptor::Descriptor;
use crate::digest::Algorithm;
use crate::error::excerpt;
use crate::nulls::null_is_default;

/// Reads a subject. Returns `None` for a subject whose digest has an unknown algorithm. The
/// document can be used without it, and content with such a digest cannot be stored.
pub(super) fn verifiable<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Descriptor>, D::Error> {
    Ok(match Option::<Entry>::deserialize(deserializer)? {
        Some(Entry::Known(subject)) => Some(*subject),
        Some(Entry::Unknown { .. }) | None => None,
    })
}

/// Describes the digests in a manifest that have another algorithm than those of [`Algorithm`].
/// Returns `None` if there are none, or if `data` does not list blobs as a manifest does.
pub(super) fn unknown_in_manifest(data: &[u8]) -> Option<String> {
    let ManifestEntries { config, layers } = serde_json::from_slice(data).ok()?;
    let entries = std::iter::once(config).chain(layers);
    let unknown = entries.filter_map(|entry| match entry {
        Entry::Known(_) => None,
        Entry::Unknown { digest } => Some(digest),
    });
    describe_unknown("blobs", &unknown.collect::<Vec<_>>())
}

/// Describes the digests of unknown algorithms among the digests of `what`. Returns `None` if there
/// are none.
fn describe_unknown(what: &str, unknown: &[String]) -> Option<String> {
    Some(format!(
        "expected sha256 or sha512 in the digests of the {what}, found \"{}\" (number of such \
         {what}: {})",
        excerpt(unknown.first()?),
        unknown.len()
    ))
}

/// Describes the entries of an index whose digests have another algorithm than those of
/// [`Algorithm`]. [`Document::parse`](super::Document::parse) leaves out these entries, because
/// their content cannot be verified. Returns `None` if there are none, or if `data` is not a valid
/// index.
pub fn left_out(data: &[u8]) -> Option<String> {
    without_unknown(data).map(|(_, what)| what)
}

/// Describes the subject of a manifest or an index, if its digest has another algorithm than those
/// of [`Algorithm`]. [`Document::parse`](super::Document::parse) leaves out such a subject. Returns
/// `None` if the document has another subject or none, or if its subject cannot be read.
pub fn unverifiable_subject(data: &[u8]) -> Option<String> {
    #[derive(Deserialize)]
    struct Referrer {
        subject: Option<Entry>,
    }
    match serde_json::from_slice::<Referrer>(data).ok()?.subject? {
        Entry::Known(_) => None,
        Entry::Unknown { digest } => Some(format!(
            "expected sha256 or sha512 in the digest of the subject, found \"{}\"",
            excerpt(&digest)
        )),
    }
}

/// Parses an index without the entries that [`left_out`] describes. Returns the index and the
/// description.
pub(super) fn without_unknown(data: &[u8]) -> Option<(Index, String)> {
    let Listed {
        manifests,
        mut index,
    } = serde_json::from_slice(data).ok()?;
    let mut unknown = Vec::new();
    for entry in manifests {
        match entry {
            Entry::Known(entry) => index.manifests.push(*entry),
            Entry::Unknown { digest } => unknown.push(digest),
        }
    }
    Some((index, describe_unknown("entries", &unknown)?))
}

/// The blobs of a manifest, whose digests may have unknown algorithms.
#[derive(Deserialize)]
struct ManifestEntries {
    config: Entry,
    #[serde(default, deserialize_with = "null_is_default")]
    layers: Vec<Entry>,
}

/// An index whose entries may have digests of unknown algorithms. As in other documents, no member
/// may be stated twice, so this is not parsed through [`serde_json::Value`].
#[derive(Deserialize)]
struct Listed {
    #[serde(default, deserialize_with = "null_is_default")]
    manifests: Vec<Entry>,
    /// All other members.
    #[serde(flatten)]
    index: Index,
}

#[derive(Deserialize)]
#[serde(untagged, expecting = "expected a descriptor with a digest and a size")]
enum Entry {
    Known(Box<Descriptor>),
    Unknown {
        #[serde(deserialize_with = "of_unknown_algorithm")]
        digest: String,
    },
}

fn of_unknown_algorithm<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let digest = String::deserialize(deserializer)?;
    match has_unknown_algorithm(&digest) {
        true => Ok(digest),
        false => Err(D::Error::custom("not a digest of an unknown algorithm")),
    }
}

/// Returns whether a text begins with the name of an algorithm as in a digest, but with another
/// name than those of [`Algorithm`].
fn has_unknown_algorithm(digest: &str) -> bool {
    let Some((name, _)) = digest.split_once(':') else {
        return false;
    };
    let is_of_name =
        |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"+._-".contains(&byte);
    let is_known = Algorithm::ALL.iter().any(|known| known.name() == name);
    !is_known && !name.is_empty() && name.bytes().all(is_of_name)
}
