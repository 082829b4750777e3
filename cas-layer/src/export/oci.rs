//! The OCI image layout: `oci-layout` and `index.json`.

use std::collections::BTreeMap;

use bytes::Bytes;
use cas_core::image::Reference;
use cas_core::{Descriptor, Error, Index, MediaType, Result};

use super::Chosen;
use crate::layout::{NAMES, VERSION};

/// Returns the file with the version of the layout.
pub(super) fn version() -> Bytes {
    format!(r#"{{"imageLayoutVersion":"{VERSION}"}}"#).into()
}

/// Returns the file that lists the images, one entry per name. Both annotations have the whole
/// name, because readers differ in which they use, and tags alone may be equal.
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
        .map_err(|error| {
            Error::internal("an index could not be serialised; please report it").source(error)
        })
}
