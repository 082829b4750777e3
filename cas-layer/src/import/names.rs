//! The names that an import writes.

use std::collections::BTreeMap;

use cas_core::image::Reference;
use cas_core::{Descriptor, Error, Result};

/// An image of the source.
pub(super) struct Root {
    /// Its name in the source.
    pub(super) name: Option<String>,
    /// Its manifest or index.
    pub(super) target: Descriptor,
}

/// Returns the images that get names: those that have one in the source, or the only image.
///
/// # Errors
/// `InvalidArgument` if no image has a name, and none is given.
pub(super) fn candidates(mut roots: Vec<Root>, name: Option<&Reference>) -> Result<Vec<Root>> {
    if roots.iter().any(|root| root.name.is_some()) {
        roots.retain(|root| root.name.is_some());
        return Ok(roots);
    }
    match (roots.len(), name) {
        (0, _) => Err(Error::invalid("the source does not list any image")),
        (1, None) => Err(Error::invalid(
            "the image has no name in the source; give one with --name",
        )),
        (1, Some(_)) => Ok(roots),
        (count, _) => Err(Error::invalid(format!(
            "the source lists {count} images without names; name them in its index",
        ))),
    }
}

/// Assigns a name to each image.
///
/// # Errors
/// `InvalidArgument` for an invalid image name; `Corrupt` if two images get the same name.
pub(super) fn assign(
    roots: Vec<Root>,
    name: Option<&Reference>,
) -> Result<BTreeMap<Reference, Descriptor>> {
    let alone = roots.len() == 1;
    let mut named = BTreeMap::new();
    for root in roots {
        let reference = match (name, &root.name) {
            (Some(name), _) if alone => name.clone(),
            (Some(name), Some(own)) => format!("{name}:{}", tag(own)).parse()?,
            (None, Some(own)) => own.parse::<Reference>()?,
            (_, None) => continue,
        };
        match named.insert(reference.clone(), root.target.clone()) {
            Some(other) if !other.same_content(&root.target) => {
                return Err(Error::corrupt(format!(
                    "the source gives this name to both {} and {}; remove one of them there",
                    other.digest, root.target.digest
                ))
                .subject(reference));
            }
            _ => {}
        }
    }
    Ok(named)
}

/// Returns the tag of a name: what follows the last colon of its last component, or the whole
/// component.
fn tag(name: &str) -> &str {
    let last = name.rsplit_once('/').map_or(name, |(_, last)| last);
    last.rsplit_once(':').map_or(last, |(_, tag)| tag)
}
