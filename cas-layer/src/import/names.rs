//! The names that an import writes.

use std::collections::{BTreeMap, BTreeSet};

use cas_core::error::excerpt;
use cas_core::image::Reference;
use cas_core::progress::Progress;
use cas_core::{Descriptor, Digest, Error, Result};

use crate::Naming;

/// Maximum number of names that a message lists.
const LISTED: usize = 10;

/// An image of the source.
pub(super) struct Root {
    /// Its name in the source.
    pub(super) name: Option<SourceName>,
    /// Its manifest or index.
    pub(super) target: Descriptor,
}

/// A name in the source.
pub(super) enum SourceName {
    /// The name of an entry in an image layout.
    Layout(String),
    /// A name in a docker archive.
    Docker(String),
}

impl SourceName {
    fn text(&self) -> &str {
        match self {
            SourceName::Layout(text) | SourceName::Docker(text) => text,
        }
    }

    /// Returns the name to write.
    fn read(&self, naming: Naming) -> Result<Reference> {
        naming.read(self.text()).or_else(|error| {
            let exact = self.text().parse().ok().filter(Reference::is_layout_name);
            let is_layout = matches!(self, SourceName::Layout(_));
            exact.filter(|_| is_layout).ok_or(error)
        })
    }
}

/// Takes the names away that state another digest than that of their image, with a warning. The
/// name that a reader pins by its digest must not lead to other content.
pub(super) fn leave_out_wrong(roots: &mut [Root], naming: Naming, progress: &dyn Progress) {
    for root in roots {
        let digest = root.target.digest;
        let is_wrong = |own: &mut SourceName| {
            let name = own.read(naming);
            name.is_ok_and(|name| !name.allows(&digest))
        };
        if let Some(wrong) = root.name.take_if(is_wrong) {
            progress.warn(&format!(
                "the name {} in the source contains a wrong digest, because the image has the \
                 digest {digest}; the image is imported without this name",
                excerpt(wrong.text())
            ));
        }
    }
}

/// Assigns names to the images: their names in the source, or the given name. An image that has no
/// name in any entry gets its digest as its name, unless it is the only image and a name is given.
///
/// # Errors
/// `InvalidArgument` for a name that cannot be written, and for a given name that does not suit the
/// images; `Corrupt` if the source gives one name to two images.
pub(super) fn assign(
    roots: Vec<Root>,
    given: Option<&Reference>,
    naming: Naming,
) -> Result<BTreeMap<Reference, Descriptor>> {
    let (named, unnamed): (Vec<Root>, Vec<Root>) =
        roots.into_iter().partition(|root| root.name.is_some());
    let mut assigned = match given {
        None => own_names(&named, naming)?,
        Some(given) if named.is_empty() => return only_one(&unnamed, given, naming),
        Some(given) => given_name(&named, given, naming)?,
    };
    let reached: BTreeSet<Digest> = assigned.values().map(|target| target.digest).collect();
    let unnamed = unnamed
        .into_iter()
        .filter(|root| !reached.contains(&root.target.digest));
    assigned.extend(unnamed.map(|root| (root.target.digest.into(), root.target)));
    Ok(assigned)
}

/// Returns the images under the names of the source.
fn own_names(roots: &[Root], naming: Naming) -> Result<BTreeMap<Reference, Descriptor>> {
    let mut assigned = BTreeMap::new();
    for (own, target) in names(roots) {
        let name = own.read(naming).map_err(|error| {
            Error::invalid(format!(
                "the source has a name that cannot be used: {error}; give another name with --name"
            ))
        })?;
        if let Some((one, other)) = insert(&mut assigned, &name, target) {
            return Err(Error::corrupt(format!(
                "the source gives this name to both {one} and {other}; remove one of them from the \
                 source"
            ))
            .subject(name));
        }
    }
    Ok(assigned)
}

/// Returns the only image, which does not have a name, under the given name.
fn only_one(
    roots: &[Root],
    given: &Reference,
    naming: Naming,
) -> Result<BTreeMap<Reference, Descriptor>> {
    let targets: BTreeSet<Digest> = roots.iter().map(|root| root.target.digest).collect();
    match roots {
        [first, ..] if targets.len() == 1 => {
            let name = read_given(given, naming, &first.target)?;
            Ok(BTreeMap::from([(name, first.target.clone())]))
        }
        _ => Err(refused(
            given,
            &format!("the source has {} images without names", targets.len()),
            "choose one of them with --platform, or import all under their digests, without --name",
        )),
    }
}

/// Returns the images under the given name, with their own tags if the source has several names.
fn given_name(
    roots: &[Root],
    given: &Reference,
    naming: Naming,
) -> Result<BTreeMap<Reference, Descriptor>> {
    let mut assigned = BTreeMap::new();
    let meaning = |own: &SourceName| {
        own.read(naming)
            .map_or(own.text().into(), |own| own.to_string())
    };
    let own: BTreeSet<String> = names(roots).map(|(own, _)| meaning(own)).collect();
    if let ([first, ..], 1) = (roots, own.len()) {
        let name = read_given(given, naming, &first.target)?;
        assigned.insert(name, first.target.clone());
        return Ok(assigned);
    }
    let others = "give a name without a tag, or import without --name";
    if has_tag(given.as_str()) {
        let mut listed: Vec<String> = own.iter().take(LISTED).map(|own| excerpt(own)).collect();
        if own.len() > LISTED {
            listed.push(format!("and {} more", own.len() - LISTED));
        }
        let why = format!("the source has {} names: {}", own.len(), listed.join(", "));
        return Err(refused(given, &why, others));
    }
    for (own, target) in names(roots) {
        let why = || {
            format!(
                "the name \"{}\" in the source has no tag",
                excerpt(own.text())
            )
        };
        let tag = tag(own.text()).ok_or_else(|| refused(given, &why(), "import without --name"))?;
        let name = naming
            .read(&format!("{given}:{tag}"))
            .map_err(|error| refused(given, &error.to_string(), "import without --name"))?;
        if let Some((one, other)) = insert(&mut assigned, &name, target) {
            let why = format!("two images in the source have the tag {tag}: {one} and {other}");
            return Err(refused(given, &why, "import without --name"));
        }
    }
    Ok(assigned)
}

/// Returns the given name for an image.
///
/// # Errors
/// `InvalidArgument` for a name that cannot be written, or that states another digest.
fn read_given(given: &Reference, naming: Naming, target: &Descriptor) -> Result<Reference> {
    let name = naming.read(given.as_str())?;
    name.check_digest(&target.digest).map(|()| name)
}

fn names(roots: &[Root]) -> impl Iterator<Item = (&SourceName, &Descriptor)> {
    let named = roots.iter();
    named.filter_map(|root| Some((root.name.as_ref()?, &root.target)))
}

/// Adds a name. Returns the digests of the two images that have it, if there are two.
fn insert(
    assigned: &mut BTreeMap<Reference, Descriptor>,
    name: &Reference,
    target: &Descriptor,
) -> Option<(Digest, Digest)> {
    let other = assigned.insert(name.clone(), target.clone())?;
    (!other.same_content(target)).then_some((other.digest, target.digest))
}

fn refused(given: &Reference, why: &str, instead: &str) -> Error {
    Error::invalid(format!("{why}; {instead}"))
        .operation("name image")
        .subject(given)
}

/// Returns whether a name has a tag or a digest.
fn has_tag(name: &str) -> bool {
    last_component(name).contains([':', '@'])
}

/// Returns the tag of a name, which is the part of the last component after its last colon. If the
/// component does not have a colon, returns the whole component, because names in a layout may be
/// tags alone. Returns `None` for a name with a digest and without a tag.
fn tag(name: &str) -> Option<&str> {
    let (name, digest) = match name.split_once('@') {
        Some((name, digest)) => (name, Some(digest)),
        None => (name, None),
    };
    let last = last_component(name);
    match last.rsplit_once(':') {
        Some((_, tag)) => Some(tag),
        None => digest.is_none().then_some(last),
    }
}

fn last_component(name: &str) -> &str {
    name.rsplit_once('/').map_or(name, |(_, last)| last)
}

#[cfg(test)]
mod tests {
    use cas_core::MediaType;

    use super::*;

    #[test]
    fn a_message_lists_ten_names_and_says_how_many_more_there_are() {
        let roots = |count: u8| {
            let root = |number: u8| Root {
                name: Some(SourceName::Docker(format!("app-{number:02}:1"))),
                target: Descriptor::of(MediaType::OCI_MANIFEST, &[number]),
            };
            (0..count).map(root).collect()
        };
        let given: Reference = "new:1".parse().unwrap();
        for (count, end) in [(10, "app-09:1; "), (11, "app-09:1, and 1 more; ")] {
            let error = assign(roots(count), Some(&given), Naming::Docker).unwrap_err();
            let said = error.to_string();
            let begin = format!("the source has {count} names: ");
            assert!(said.contains(&begin) && said.contains(end), "{said}");
        }
    }
}
