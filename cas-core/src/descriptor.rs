//! Descriptors: the type, digest and size of content.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize};

use crate::digest::Digest;
use crate::media_type::MediaType;
use crate::nulls::{null_is_default, texts};
use crate::platform::Platform;

/// A descriptor, as the OCI image specification defines it: the type, digest and size of content,
/// and optional members.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[serde(expecting = "an object")]
pub struct Descriptor {
    /// Media type of the content; empty if the descriptor states none.
    #[serde(default, deserialize_with = "null_is_default")]
    pub media_type: MediaType,
    /// Digest of the content.
    pub digest: Digest,
    /// Length of the content in bytes. A negative length does not parse.
    pub size: u64,
    /// URLs from which the content can also be fetched. `cas` does not use them.
    #[serde(
        default,
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "null_is_default"
    )]
    pub urls: Vec<String>,
    /// Annotations that the author of the descriptor added.
    #[serde(
        default,
        skip_serializing_if = "BTreeMap::is_empty",
        deserialize_with = "texts"
    )]
    pub annotations: BTreeMap<String, String>,
    /// Platform of the manifest, if the descriptor is an entry of an index. A platform that states
    /// neither an operating system nor a processor is read as `None`.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "stated"
    )]
    pub platform: Option<Platform>,
    /// Type of the artifact, if the content is the manifest or the index of an artifact.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
    /// The content itself in base64, if it is embedded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<String>,
}

/// Returns the platform of a descriptor. A platform that states neither an operating system nor a
/// processor counts as none.
fn stated<'de, D>(deserializer: D) -> Result<Option<Platform>, D::Error>
where
    D: Deserializer<'de>,
{
    Ok(Option::<Platform>::deserialize(deserializer)?.filter(|platform| !platform.is_unstated()))
}

impl Descriptor {
    /// Returns a descriptor with this media type, digest and size. All other members are empty.
    pub fn new(media_type: MediaType, digest: Digest, size: u64) -> Self {
        Descriptor {
            media_type,
            digest,
            size,
            urls: Vec::new(),
            annotations: BTreeMap::new(),
            platform: None,
            artifact_type: None,
            data: None,
        }
    }

    /// Returns the descriptor of `data`, with its SHA-256 digest.
    pub fn of(media_type: MediaType, data: &[u8]) -> Self {
        Self::new(media_type, Digest::sha256(data), data.len() as u64)
    }

    /// Sets the platform.
    #[must_use]
    pub fn with_platform(mut self, platform: Platform) -> Self {
        self.platform = Some(platform);
        self
    }

    /// Returns how many bytes the texts of the descriptor have together: annotations, URLs, the
    /// type of the artifact and embedded data.
    pub(crate) fn text_size(&self) -> u64 {
        let annotations = self.annotations.iter();
        let annotations = annotations.map(|(key, value)| key.len() + value.len());
        let urls = self.urls.iter().map(String::len);
        let others =
            [&self.artifact_type, &self.data].map(|text| text.as_ref().map_or(0, String::len));
        annotations.chain(urls).chain(others).sum::<usize>() as u64
    }

    /// Returns whether both descriptors have the same media type, digest and size. All other
    /// members may differ.
    pub fn same_content(&self, other: &Self) -> bool {
        self.digest == other.digest
            && self.size == other.size
            && self.media_type == other.media_type
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_negative_size_and_an_invalid_digest_do_not_parse() {
        let digest = Digest::sha256(b"");
        for (digest, size) in [(digest.to_string(), "-1"), ("sha256:../../x".into(), "1")] {
            let text = format!(r#"{{"mediaType":"a/b","digest":"{digest}","size":{size}}}"#);
            assert!(serde_json::from_str::<Descriptor>(&text).is_err(), "{text}");
        }
    }
}
