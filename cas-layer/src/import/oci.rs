//! The OCI image layout: `oci-layout`, `index.json`, `blobs/`.

use cas_core::error::excerpt;
use cas_core::layout::{
    IMAGE_LAYOUT_VERSION, INDEX, ImageLayout, OCI_LAYOUT, REF_NAME, REFS, parse_ref,
};
use cas_core::{Context, Descriptor, Document, Error, MediaType, Result};

use super::contents::unrecognised;
use super::names::{Root, SourceName};
use super::plan::Plan;
use crate::layout::IMAGE_NAME;

/// Returns the images of a layout.
pub(super) async fn roots(plan: &mut Plan<'_>) -> Result<Vec<Root>> {
    check_layout(plan).await?;
    let store = plan.importer.store;
    let Some(part) = plan.contents.find(INDEX)? else {
        return Err(unrecognised(&[]));
    };
    let named = |error: Error| error.operation("read").subject(INDEX);
    let data = part.document(store).await.map_err(named)?;
    let index = Document::parse(&MediaType::OCI_INDEX, &data).map_err(named)?;
    plan.warn_of_left_out(INDEX, &data);
    Ok(index.children().cloned().map(root).collect())
}

/// Returns the images of an old layout, which does not have an `index.json`: each file in `refs/`
/// is the descriptor of an image. Returns an empty list if `refs/` is absent or empty.
pub(super) async fn old_roots(plan: &mut Plan<'_>) -> Result<Vec<Root>> {
    let names = plan.contents.names(REFS).during("list", REFS)?;
    if names.is_empty() {
        return Ok(Vec::new());
    }
    check_layout(plan).await?;
    let mut roots = Vec::with_capacity(names.len());
    for name in names {
        let path = format!("{REFS}/{name}");
        let named = |error: Error| error.operation("read").subject(&path);
        let part = plan.contents.find(&path).map_err(named)?;
        let absent = || {
            named(Error::corrupt(
                "expected a file or a link to a file, found something else; correct or remove it",
            ))
        };
        let data = part.ok_or_else(absent)?.document(plan.importer.store).await;
        let data = data.map_err(named)?;
        let target = parse_ref(&data).map_err(named)?;
        roots.push(Root {
            name: Some(SourceName::Layout(name)),
            target,
        });
    }
    Ok(roots)
}

/// Checks the version of the layout.
async fn check_layout(plan: &mut Plan<'_>) -> Result<()> {
    let Some(part) = plan.contents.find(OCI_LAYOUT)? else {
        plan.importer
            .progress
            .warn("the source has no oci-layout file; layout version 1.0.0 is assumed");
        return Ok(());
    };
    let data = part.document(plan.importer.store).await;
    let checked = data.and_then(|data| check_version(&data));
    checked.during("read", OCI_LAYOUT)
}

fn check_version(data: &[u8]) -> Result<()> {
    match ImageLayout::parse(data)?.image_layout_version.as_str() {
        // An empty version counts as the supported version.
        IMAGE_LAYOUT_VERSION | "" => Ok(()),
        other => Err(Error::unsupported(format!(
            "unsupported layout version {}; create the source with version {IMAGE_LAYOUT_VERSION}",
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
    // A store of `cas` writes the digest as the name of an image without a name.
    let name = names.find(|name| !name.is_empty() && *name != digest);
    Root {
        name: name.map(SourceName::Layout),
        target,
    }
}
