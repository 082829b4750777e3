//! The OCI image layout: `oci-layout`, `index.json`, `blobs/`.

use cas_core::document::check_json;
use cas_core::error::excerpt;
use cas_core::layout::{
    IMAGE_LAYOUT_VERSION, INDEX, ImageLayout, OCI_LAYOUT, REF_NAME, REFS, parse_ref,
};
use cas_core::progress::Progress;
use cas_core::{Algorithm, Context, Descriptor, Document, Error, ErrorKind, MediaType, Result};
use serde_json::Value;

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
    let entries = entries(&data, plan.importer.progress).map_err(named)?;
    Ok(entries.into_iter().map(root).collect())
}

/// Returns the entries of `index.json`. Leaves out entries whose digests have another algorithm
/// than those of [`Algorithm`], and warns of them, because the other entries can be imported.
///
/// # Errors
/// `Unsupported` if no other entry is left; as [`Document::parse`].
fn entries(data: &[u8], progress: &dyn Progress) -> Result<Vec<Descriptor>> {
    let parse = |data: &[u8]| -> Result<Vec<Descriptor>> {
        let document = Document::parse(&MediaType::OCI_INDEX, data)?;
        Ok(document.children().cloned().collect())
    };
    let error = match parse(data) {
        Err(error) if error.kind() == ErrorKind::Corrupt => error,
        parsed => return parsed,
    };
    let Some((rest, left_out)) = without_unknown(data) else {
        return Err(error);
    };
    let entries = parse(&rest)?;
    let first = left_out.first().map_or("", String::as_str);
    let what = format!(
        "expected sha256 or sha512 in the digests of the entries, found \"{}\" (number of such \
         entries: {})",
        excerpt(first),
        left_out.len()
    );
    if entries.is_empty() {
        return Err(Error::unsupported(format!(
            "{what}; name a source that has other entries"
        )));
    }
    progress.warn(&format!(
        "{INDEX}: {what}; only the other entries are imported"
    ));
    Ok(entries)
}

/// Returns an index without the entries whose digests have an unknown algorithm, and the digests of
/// these entries. Returns `None` if there are no such entries.
fn without_unknown(data: &[u8]) -> Option<(Vec<u8>, Vec<String>)> {
    check_json(data).ok()?;
    let mut index: Value = serde_json::from_slice(data).ok()?;
    let entries = index.get_mut("manifests")?.as_array_mut()?;
    let mut left_out = Vec::new();
    entries.retain(|entry| {
        let digest = entry["digest"].as_str().unwrap_or_default();
        let is_unknown = has_unknown_algorithm(digest);
        if is_unknown {
            left_out.push(digest.to_owned());
        }
        !is_unknown
    });
    let rest = serde_json::to_vec(&index).ok()?;
    (!left_out.is_empty()).then_some((rest, left_out))
}

/// Returns whether a text begins with the name of an algorithm as in a digest, but with another
/// name than those of [`Algorithm`].
fn has_unknown_algorithm(digest: &str) -> bool {
    let Some((name, _)) = digest.split_once(':') else {
        return false;
    };
    let is_of_name =
        |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"+._-".contains(&byte);
    let is_known = Algorithm::ALL.iter().any(|known| known.name() == name);
    !is_known && !name.is_empty() && name.bytes().all(is_of_name)
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
