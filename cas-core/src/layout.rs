//! The names and documents of an OCI image layout.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::descriptor::Descriptor;
use crate::digest::Digest;
use crate::document::check_json;
use crate::error::{self, malformed};
use crate::nulls::null_is_default;

/// The file with the version of the layout.
pub const OCI_LAYOUT: &str = "oci-layout";
/// The version of the layout that every reader accepts. umoci refuses any other version.
pub const IMAGE_LAYOUT_VERSION: &str = "1.0.0";
/// The file that lists the images.
pub const INDEX: &str = "index.json";
/// The directory in which layouts listed their images before the OCI image-spec defined
/// `index.json`. It has one file for each image. The file contains a descriptor.
pub const REFS: &str = "refs";
/// An annotation of an entry of [`INDEX`]. Its value names the image: it is a whole name or, in
/// the layouts of some programs, only a tag. A store of `cas` writes the digest as the value if the
/// image has no name.
pub const REF_NAME: &str = "org.opencontainers.image.ref.name";

/// The document [`OCI_LAYOUT`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", expecting = "an object")]
pub struct ImageLayout {
    /// The version; empty if the writer left it out.
    #[serde(default, deserialize_with = "null_is_default")]
    pub image_layout_version: String,
}

impl Default for ImageLayout {
    /// Returns the document that `cas` writes.
    fn default() -> Self {
        ImageLayout {
            image_layout_version: IMAGE_LAYOUT_VERSION.to_owned(),
        }
    }
}

impl ImageLayout {
    /// Parses the document. Any version is accepted.
    ///
    /// # Errors
    /// `Corrupt` if `data` is not the JSON of an `oci-layout` file, or exceeds a bound that
    /// [`check_json`] checks.
    pub fn parse(data: &[u8]) -> error::Result<Self> {
        check_json(data)?;
        // serde would also read an array as the document.
        let object: Result<Map<String, Value>, _> = serde_json::from_slice(data);
        let parsed = object.and_then(|object| serde_json::from_value(object.into()));
        parsed.map_err(|error| malformed("not the JSON of an `oci-layout` file", &error))
    }
}

/// Parses a file of [`REFS`].
///
/// # Errors
/// `Corrupt` if `data` is not a descriptor, or exceeds a bound that [`check_json`] checks.
pub fn parse_ref(data: &[u8]) -> error::Result<Descriptor> {
    check_json(data)?;
    serde_json::from_slice(data).map_err(|error| malformed("not a descriptor", &error))
}

/// Returns the path of a blob in a layout.
pub fn blob_path(digest: &Digest) -> String {
    format!("blobs/{}/{}", digest.algorithm().name(), digest.hex())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    #[test]
    fn the_document_has_the_bytes_of_the_image_spec() {
        let text = r#"{"imageLayoutVersion":"1.0.0"}"#;
        let written = serde_json::to_string(&ImageLayout::default()).unwrap();
        assert_eq!(written, text);
        assert_eq!(
            ImageLayout::parse(text.as_bytes()).unwrap(),
            ImageLayout::default()
        );
        for (text, version) in [
            (r#"{"imageLayoutVersion":"1.1.0","more":1}"#, "1.1.0"),
            (r#"{"imageLayoutVersion":null}"#, ""),
            ("{}", ""),
        ] {
            let parsed = ImageLayout::parse(text.as_bytes()).unwrap();
            assert_eq!(parsed.image_layout_version, version, "{text}");
        }
        for text in ["", "[]", "1.0.0", r#"{"imageLayoutVersion":1}"#] {
            let error = ImageLayout::parse(text.as_bytes()).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Corrupt, "{text}");
        }
    }

    #[test]
    fn a_blob_is_stored_by_algorithm_and_hex() {
        let empty = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        let path = blob_path(&empty.parse().unwrap());
        assert_eq!(path, empty.replace("sha256:", "blobs/sha256/"));
    }
}
