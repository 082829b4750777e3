//! The names that an import makes.

use std::collections::BTreeMap;

use cas_core::image::Reference;
use cas_core::{Descriptor, Error, Result};

/// An image of the source.
pub(super) struct Root {
    /// What the source calls it.
    pub(super) name: Option<String>,
    /// What it is.
    pub(super) target: Descriptor,
}

/// The images that get names: those that have one, or the only one there is.
///
/// # Errors
/// `InvalidArgument` when there is no name for any, and none is given.
pub(super) fn candidates(mut roots: Vec<Root>, name: Option<&Reference>) -> Result<Vec<Root>> {
    if roots.iter().any(|root| root.name.is_some()) {
        roots.retain(|root| root.name.is_some());
        return Ok(roots);
    }
    match (roots.len(), name) {
        (0, _) => Err(Error::invalid("the source lists no image")),
        (1, None) => Err(Error::invalid(
            "the source has no name for its image; give one with --name",
        )),
        (1, Some(_)) => Ok(roots),
        (count, _) => Err(Error::invalid(format!(
            "the source has {count} images and a name for none of them; name them there"
        ))),
    }
}

/// Which name each image gets.
///
/// # Errors
/// `InvalidArgument` for what is no image name; `Corrupt` when one name would stand for two
/// images.
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

/// The tag in a name: what follows the last colon of its last component, or all of the name.
fn tag(name: &str) -> &str {
    let last = name.rsplit_once('/').map_or(name, |(_, last)| last);
    last.rsplit_once(':').map_or(last, |(_, tag)| tag)
}
