//! The type of a document that comes without a descriptor.

use serde::Deserialize;
use serde::de::IgnoredAny;

use crate::document::Document;
use crate::media_type::MediaType;

/// Returns the media type of the manifest or index `data`. This is the type that `data` states or,
/// if `data` states none, the type that OCI defines for a manifest or an index. Returns `None` if
/// `data` is not a valid manifest or index (see [`Document::parse`]), or has none of the members
/// `mediaType`, `schemaVersion`, `layers` and `manifests`.
pub fn document_type(data: &[u8]) -> Option<MediaType> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Stated {
        media_type: Option<MediaType>,
        schema_version: Option<IgnoredAny>,
        layers: Option<IgnoredAny>,
        manifests: Option<IgnoredAny>,
    }
    let stated: Stated = serde_json::from_slice(data).ok()?;
    let lists = stated.layers.or(stated.manifests);
    // All members of an index may be absent, so any object would parse as an empty index.
    let shaped = stated.schema_version.or(lists).is_some();
    let known = [MediaType::OCI_MANIFEST, MediaType::OCI_INDEX];
    let known = known.into_iter().filter(|_| shaped);
    let types = stated.media_type.into_iter().chain(known);
    types
        .filter(MediaType::is_document)
        .find(|media_type| Document::parse(media_type, data).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_are_recognised_with_and_without_their_type() {
        let config = r#"{"mediaType":"application/vnd.oci.image.config.v1+json","size":2,
            "digest":"sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"}"#;
        let docker = MediaType::DOCKER_MANIFEST;
        for (text, expected) in [
            (
                r#"{"schemaVersion":2,"manifests":[]}"#.to_owned(),
                Some(MediaType::OCI_INDEX),
            ),
            (
                format!(r#"{{"schemaVersion":2,"config":{config},"layers":[]}}"#),
                Some(MediaType::OCI_MANIFEST),
            ),
            (
                format!(
                    r#"{{"schemaVersion":2,"mediaType":"{docker}","config":{config},"layers":[]}}"#
                ),
                Some(docker),
            ),
            (r#"{"manifests":[]}"#.to_owned(), Some(MediaType::OCI_INDEX)),
            ("{}".to_owned(), None),
            (r#"{"manifests":null}"#.to_owned(), None),
            (format!(r#"{{"config":{config}}}"#), None),
            (r#"{"architecture":"amd64","config":{}}"#.to_owned(), None),
            ("[1]".to_owned(), None),
        ] {
            assert_eq!(document_type(text.as_bytes()), expected, "{text}");
        }
    }
}
