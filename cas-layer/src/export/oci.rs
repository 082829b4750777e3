//! The OCI image layout: `oci-layout` and `index.json`.

use std::collections::BTreeMap;

use bytes::Bytes;
use cas_core::image::Reference;
use cas_core::{Descriptor, Error, Index, MediaType, Result};

use super::Chosen;
use crate::layout::{NAMES, VERSION};

/// The file that says which version of the layout it is.
pub(super) fn version() -> Bytes {
    format!(r#"{{"imageLayoutVersion":"{VERSION}"}}"#).into()
}

/// The file that lists the images: an entry a name. Both annotations have the whole name, for
/// readers differ in which they take, and tags alone may be the same.
pub(super) fn index(chosen: &BTreeMap<Reference, Chosen>) -> Result<Bytes> {
    let entry = |(name, chosen): (&Reference, &Chosen)| -> Descriptor {
        let mut entry = chosen.target.clone();
        let names = NAMES.map(|key| (key.to_owned(), name.to_string()));
        entry.annotations.extend(names);
        entry
    };
    let index = Index {
        schema_version: 2,
        media_type: Some(MediaType::OCI_INDEX),
        artifact_type: None,
        manifests: chosen.iter().map(entry).collect(),
        subject: None,
        annotations: None,
    };
    serde_json::to_vec(&index)
        .map(Bytes::from)
        .map_err(|error| Error::internal("an index does not serialise").source(error))
}
