//! The names that an import makes.

use std::collections::BTreeMap;
use std::sync::Arc;

use cas_core::error::Kind;
use cas_core::image::Reference;
use cas_core::{Context, Descriptor, Error, Image, ImageStore, Result};

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

/// Makes or re-points the names; all of them, or as far as that can be had, none.
///
/// # Errors
/// Those of the image store.
pub(super) async fn point(
    images: &Arc<dyn ImageStore>,
    named: BTreeMap<Reference, Descriptor>,
) -> Result<Vec<Image>> {
    let mut before = Vec::new();
    let mut made = Vec::new();
    for (name, target) in named {
        let outcome = point_one(images.as_ref(), &name, target, &mut before).await;
        match outcome.during("name image", &name) {
            Ok(image) => made.push(image),
            Err(error) => {
                for (name, image) in before.into_iter().rev() {
                    // The first error is the one to report.
                    let _ = match image {
                        Some(image) => images.update(image, &["target"]).await.map(|_| ()),
                        None => images.delete(&name, None).await,
                    };
                }
                return Err(error);
            }
        }
    }
    Ok(made)
}

async fn point_one(
    images: &dyn ImageStore,
    name: &Reference,
    target: Descriptor,
    before: &mut Vec<(Reference, Option<Image>)>,
) -> Result<Image> {
    let found = images.get(name).await?;
    if let Some(image) = found.as_ref().filter(|image| image.target == target) {
        return Ok(image.clone());
    }
    let image = Image::new(name.clone(), target);
    let outcome = match found {
        Some(_) => images.update(image, &["target"]).await,
        None => match images.create(image.clone()).await {
            Err(error) if error.kind() == Kind::AlreadyExists => {
                images.update(image, &["target"]).await
            }
            outcome => outcome,
        },
    };
    if outcome.is_ok() {
        before.push((name.clone(), found));
    }
    outcome
}

#[cfg(test)]
mod tests {
    use super::*;
    use cas_core::MediaType;

    fn root(name: Option<&str>, content: &str) -> Root {
        Root {
            name: name.map(str::to_owned),
            target: Descriptor::of(MediaType::OCI_MANIFEST, content.as_bytes()),
        }
    }

    fn names(roots: Vec<Root>, name: Option<&str>) -> Result<Vec<String>> {
        let name = name.map(|name| name.parse::<Reference>().unwrap());
        let named = assign(candidates(roots, name.as_ref())?, name.as_ref())?;
        Ok(named.keys().map(Reference::to_string).collect())
    }

    #[test]
    fn a_name_is_for_one_and_a_prefix_for_many() {
        let two = || vec![root(Some("x.io:5000/a"), "1"), root(Some("x.io/b:v2"), "2")];
        assert_eq!(names(two(), None).unwrap(), ["x.io/b:v2", "x.io:5000/a"]);
        assert_eq!(names(two(), Some("n")).unwrap(), ["n:a", "n:v2"]);
        assert_eq!(names(vec![root(None, "1")], Some("n")).unwrap(), ["n"]);
        assert_eq!(
            names(vec![root(Some("old"), "1")], Some("n:1")).unwrap(),
            ["n:1"]
        );
    }

    #[test]
    fn refuses_no_name_and_one_name_for_two() {
        let nameless = names(vec![root(None, "1")], None).unwrap_err();
        assert_eq!(nameless.kind(), Kind::InvalidArgument);
        let twice = names(vec![root(Some("a"), "1"), root(Some("a"), "2")], None).unwrap_err();
        assert_eq!(twice.kind(), Kind::Corrupt);
        assert!(names(vec![root(Some("a"), "1"), root(Some("a"), "1")], None).is_ok());
    }
}
