//! The OCI image layout: `oci-layout` and `index.json`.

use std::collections::BTreeMap;

use bytes::Bytes;
use cas_core::image::Reference;
use cas_core::layout::{IMAGE_LAYOUT_VERSION, REF_NAME};
use cas_core::{Descriptor, Error, Index, MediaType, Result, limit};

use super::Chosen;
use crate::Naming;
use crate::layout::IMAGE_NAME;

/// Returns the file with the version of the layout.
pub(super) fn version() -> Bytes {
    format!(r#"{{"imageLayoutVersion":"{IMAGE_LAYOUT_VERSION}"}}"#).into()
}

/// Returns the file that lists the images, one entry per name. An entry has the name in two
/// annotations, because not all readers use the same one. `naming` decides how the name is written
/// in [`IMAGE_NAME`], because containerd uses this value as the name of the image. [`REF_NAME`] has
/// the name that the image has in the store, and not only the tag, because two images may have the
/// same tag. An image without a name has neither annotation.
///
/// Referrers follow, without names and without any annotations, because a reader could take an
/// annotation of theirs for a name.
///
/// # Errors
/// `OutOfRange` if an import would refuse the index: for more than [`limit::DESCRIPTORS`] entries,
/// or [`limit::DOCUMENT_READ`] bytes.
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
        // The manifest for one platform has another digest than its index.
        if *name == Reference::from(entry.digest) || !name.allows(&entry.digest) {
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
    let found = index.manifests.len();
    let data = serde_json::to_vec(&index).map_err(|error| {
        Error::internal("an index could not be serialized; please report it").source(error)
    })?;
    if found > limit::DESCRIPTORS || data.len() as u64 > limit::DOCUMENT_READ {
        let (most, bytes) = (limit::DESCRIPTORS, limit::DOCUMENT_READ);
        return Err(Error::out_of_range(format!(
            "the index of the archive would have {found} entries and {} bytes; an import accepts \
             at most {most} entries and {bytes} bytes; export fewer images at a time",
            data.len()
        )));
    }
    Ok(data.into())
}
