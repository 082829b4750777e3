//! Reads the directory of skopeo's transport `dir:`. It contains one image, without a name.
//! `manifest.json` is its manifest or index. The file of any other blob is named by the hexadecimal
//! part of the digest. Newer versions of skopeo put the algorithm and a hyphen before this part,
//! unless the algorithm is SHA-256. If the blob is a manifest that an index lists, the name of the
//! file ends in `.manifest.json`.

use bytes::Bytes;
use cas_core::{Descriptor, Document, Error, MediaType, Result, document_type};

use super::names::Root;
use super::naming::Naming;
use super::plan::Plan;
use crate::layout::DOCKER_MANIFEST;

/// Returns whether the file is a manifest or an index, and not docker's list of images.
pub(super) fn is_manifest(data: &[u8]) -> bool {
    data.trim_ascii_start().starts_with(b"{")
}

/// Returns the image whose manifest or index is `data`, and sets how `plan` finds its blobs.
pub(super) fn roots(plan: &mut Plan<'_>, data: &Bytes) -> Result<Vec<Root>> {
    let named = |error: Error| error.operation("read").subject(DOCKER_MANIFEST);
    let media_type = match document_type(data) {
        Some(media_type) => media_type,
        None => {
            // The error states why this is not a manifest.
            Document::parse(&MediaType::OCI_MANIFEST, data).map_err(named)?;
            MediaType::OCI_MANIFEST
        }
    };
    let target = Descriptor::of(media_type, data);
    plan.naming = Naming::SkopeoDir {
        root: target.digest,
    };
    Ok(vec![Root { name: None, target }])
}
