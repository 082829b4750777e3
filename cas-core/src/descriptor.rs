//! Descriptors, with their digests already checked; the bridge to `oci-spec`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::media_type::MediaType;
use crate::platform::Platform;

/// Where content is: its type, digest and size, as the OCI image specification writes it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// Type of the content.
    pub media_type: MediaType,
    /// Digest of the content.
    pub digest: Digest,
    /// Length of the content in bytes; a negative one does not parse.
    pub size: u64,
    /// Where else it may be fetched; never followed unless asked.
    #[serde(
        default,
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "null_is_empty"
    )]
    pub urls: Vec<String>,
    /// Remarks of its author.
    #[serde(
        default,
        skip_serializing_if = "BTreeMap::is_empty",
        deserialize_with = "null_is_empty"
    )]
    pub annotations: BTreeMap<String, String>,
    /// Platform of a manifest in an index.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<Platform>,
    /// Type of the artifact that a manifest describes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
    /// The content itself, in base64, where it is embedded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<String>,
}

fn null_is_empty<'de, D, T>(deserializer: D) -> std::result::Result<T, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Deserialize<'de> + Default,
{
    Ok(Option::<T>::deserialize(deserializer)?.unwrap_or_default())
}

impl Descriptor {
    /// A descriptor of these three, and nothing more.
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

    /// The descriptor of `data` under its SHA-256.
    pub fn of(media_type: MediaType, data: &[u8]) -> Self {
        Self::new(media_type, Digest::sha256(data), data.len() as u64)
    }

    /// The same descriptor with a platform.
    #[must_use]
    pub fn with_platform(mut self, platform: Platform) -> Self {
        self.platform = Some(platform);
        self
    }

    /// Whether both name the same content in the same way; remarks may differ.
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
    fn negative_size_and_wild_digest_do_not_parse() {
        let digest = Digest::sha256(b"");
        for (digest, size) in [(digest.to_string(), "-1"), ("sha256:../../x".into(), "1")] {
            let text = format!(r#"{{"mediaType":"a/b","digest":"{digest}","size":{size}}}"#);
            assert!(serde_json::from_str::<Descriptor>(&text).is_err(), "{text}");
        }
    }
}
