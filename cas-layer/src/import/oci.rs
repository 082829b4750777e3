//! The OCI image layout: `oci-layout`, `index.json`, `blobs/`.

use cas_core::error::{excerpt, malformed};
use cas_core::nulls::null_is_default;
use cas_core::{Descriptor, Document, Error, MediaType, Result, document};
use serde::Deserialize;

use super::contents::unrecognised;
use super::names::{Root, SourceName};
use super::plan::Plan;
use crate::layout::{IMAGE_NAME, INDEX, LAYOUT, REF_NAME, VERSION};

/// Returns the images of a layout.
pub(super) async fn roots(plan: &mut Plan<'_>) -> Result<Vec<Root>> {
    let store = plan.importer.store;
    match plan.contents.find(LAYOUT)? {
        Some(part) => {
            let named = |error: Error| error.operation("read").subject(LAYOUT);
            let data = part.document(store).await.map_err(named)?;
            check_version(&data).map_err(named)?;
        }
        None => plan
            .importer
            .progress
            .warn("the source has no oci-layout file; version 1.0.0 is assumed"),
    }
    let Some(part) = plan.contents.find(INDEX)? else {
        return Err(unrecognised(&[]));
    };
    let named = |error: Error| error.operation("read").subject(INDEX);
    let data = part.document(store).await.map_err(named)?;
    let document = Document::parse(&MediaType::OCI_INDEX, &data).map_err(named)?;
    Ok(document.children().cloned().map(root).collect())
}

fn check_version(data: &[u8]) -> Result<()> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    #[serde(expecting = "an object")]
    struct Layout {
        #[serde(default, deserialize_with = "null_is_default")]
        image_layout_version: String,
    }
    document::check_json(data)?;
    let layout: Layout =
        serde_json::from_slice(data).map_err(|error| malformed("invalid layout file", &error))?;
    match layout.image_layout_version.as_str() {
        // An empty version counts as this one.
        VERSION | "" => Ok(()),
        other => Err(Error::unsupported(format!(
            "unsupported layout version {}; create the source with version {VERSION}",
            excerpt(other)
        ))),
    }
}

/// Converts an entry of the index. The annotations with its name do not belong to the image, so
/// they are removed.
fn root(mut target: Descriptor) -> Root {
    let names = [IMAGE_NAME, REF_NAME].map(|key| target.annotations.remove(key));
    let digest = target.digest.to_string();
    let mut names = names.into_iter().flatten();
    // Our stores write the digest as the name if an image has no name.
    let name = names.find(|name| !name.is_empty() && *name != digest);
    Root {
        name: name.map(SourceName::Layout),
        target,
    }
}
