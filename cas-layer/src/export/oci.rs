//! The OCI image layout: `oci-layout` and `index.json`.

use std::collections::BTreeMap;

use bytes::Bytes;
use cas_core::image::Reference;
use cas_core::layout::{IMAGE_LAYOUT_VERSION, REF_NAME};
use cas_core::{Descriptor, Error, Index, MediaType, Result};

use super::Chosen;
use crate::Naming;
use crate::layout::IMAGE_NAME;

/// Returns the file with the version of the layout.
pub(super) fn version() -> Bytes {
    format!(r#"{{"imageLayoutVersion":"{IMAGE_LAYOUT_VERSION}"}}"#).into()
}

/// Returns the file that lists the images, one entry per name. Readers differ in which annotation
/// they use. containerd stores the value of its own annotation as the name, so `naming` decides how
/// this value is written. The other annotation has the name that the store has, and not only the
/// tag, because two images may have the same tag. An image without a name has neither annotation.
///
/// Referrers follow, without names and without any annotations, because a reader could take an
/// annotation of theirs for a name.
pub(super) fn index(
    chosen: &BTreeMap<Reference, Chosen>,
    referrers: &[Descriptor],
    naming: Naming,
) -> Result<Bytes> {
    let referrers = referrers.iter().map(|referrer| Descriptor {
        annotations: BTreeMap::new(),
        ..referrer.clone()
    });
    let entry = |(name, chosen): (&Reference, &Chosen)| -> Descriptor {
        let mut entry = chosen.target.clone();
        if *name == Reference::from(entry.digest) {
            return entry;
        }
        let names = [(IMAGE_NAME, naming.write(name)), (REF_NAME, name.clone())];
        let names = names.map(|(key, name)| (key.to_owned(), name.to_string()));
        entry.annotations.extend(names);
        entry
    };
    let index = Index {
        schema_version: 2,
        media_type: Some(MediaType::OCI_INDEX),
        artifact_type: None,
        manifests: chosen.iter().map(entry).chain(referrers).collect(),
        subject: None,
        annotations: None,
    };
    serde_json::to_vec(&index)
        .map(Bytes::from)
        .map_err(|error| {
            Error::internal("an index could not be serialized; please report it").source(error)
        })
}
