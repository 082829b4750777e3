//! Finds images by what a person types: a digest, or any spelling of a name.
//!
//! Names are stored in full. But stores of earlier releases have names as users typed them, and
//! programs may store any name, so each name is looked up in all its spellings.

use std::collections::BTreeMap;

use cas_core::error::excerpt;
use cas_core::image::{FullName, Reference};
use cas_core::{
    Algorithm, ContentExt, Descriptor, Digest, DigestPrefix, Error, Image, ImageStoreExt,
    MediaType, Result, Store,
};

/// Text with at least this many hexadecimal digits is looked up first as a digest, and then as a
/// name. Shorter text without an algorithm may be a word like `cafe`. It is looked up first as a
/// name.
const CERTAIN: usize = 7;

/// Returns the image that `text` stands for, followed by the same image under other names: other
/// spellings of its name, or its other names if it was found by its digest.
///
/// # Errors
/// `InvalidArgument` if the text stands for several images, or if it is neither a digest, nor a
/// name that docker accepts, nor exactly a name in the store; `NotFound`.
pub(super) async fn find(store: &Store, text: &str) -> Result<Vec<Image>> {
    find_all(store, text)
        .await
        .map_err(|error| error.operation("find image").subject(excerpt(text)))
}

async fn find_all(store: &Store, text: &str) -> Result<Vec<Image>> {
    let parsed = text.parse::<DigestPrefix>();
    let prefix = parsed.as_ref().ok();
    let is_certain =
        |prefix: &&DigestPrefix| prefix.algorithm().is_some() || prefix.hex().len() >= CERTAIN;
    let certain = prefix.filter(is_certain);
    let mut matching = match certain {
        Some(prefix) => by_digest(store, prefix).await?,
        None => BTreeMap::new(),
    };
    if matching.len() == 1 {
        return Ok(matching.into_values().flatten().collect());
    }
    let full = text.parse::<FullName>();
    let named = match &full {
        Ok(full) => by_name(store, full, text).await?,
        Err(_) => by_exact_name(store, text).await?,
    };
    if !named.is_empty() {
        return Ok(named);
    }
    if let (None, Some(prefix)) = (certain, prefix) {
        matching = by_digest(store, prefix).await?;
    }
    match (matching.len(), parsed, full) {
        (1, ..) => Ok(matching.into_values().flatten().collect()),
        (0, Err(error), Err(_)) if has_algorithm(text) => Err(error),
        (0, Err(_), Err(error)) => Err(error),
        (0, ..) => Err(absent()),
        _ => Err(ambiguous(
            "the digests of several images begin with these digits",
            matching.values().flatten(),
            "more digits, or the whole name of one of them",
        )),
    }
}

/// Returns whether text begins as a digest does: with an algorithm and a colon.
fn has_algorithm(text: &str) -> bool {
    let before = text.split_once(':').map(|(before, _)| before);
    let mut algorithms = Algorithm::ALL.iter();
    algorithms.any(|one| before == Some(one.name()))
}

/// Returns the image of a name that a program gives. Looks up exactly this name first, and then its
/// other spellings.
///
/// # Errors
/// `NotFound`; `InvalidArgument` if spellings of the name refer to different images.
pub(super) async fn find_name(store: &Store, name: &Reference) -> Result<Vec<Image>> {
    let image = store.images.get(name).await?;
    if let Some(image) = image.filter(has_stated_digest) {
        return Ok(vec![image]);
    }
    let found = match FullName::of(name) {
        Some(full) => by_name(store, &full, name.as_str()).await,
        None => Ok(Vec::new()),
    };
    match found {
        Ok(found) if found.is_empty() => Err(absent()),
        found => found,
    }
    .map_err(|error| error.operation("find image").subject(name))
}

/// Returns the image of a name in docker's notation, and the same image under other spellings. If
/// the store does not have any spelling of the name, returns the same as `by_name_and_digest`.
///
/// # Errors
/// `InvalidArgument` if spellings refer to different images, unless `typed` is the full form and
/// the store has it.
pub(super) async fn by_name(store: &Store, full: &FullName, typed: &str) -> Result<Vec<Image>> {
    let mut found = store.images.get_all(&full.spellings()).await?;
    found.retain(has_stated_digest);
    let Some(first) = found.first() else {
        return by_name_and_digest(store, full).await;
    };
    let (is_full, target) = (first.name.as_str() == typed, first.target.digest);
    if is_full && first.name == full.name() {
        found.retain(|image| image.target.digest == target);
    }
    if found.iter().any(|image| image.target.digest != target) {
        let why = "spellings of this name refer to different images";
        let one = "the digest of one of these images (the full name is accepted only if this list \
                   has it)";
        return Err(ambiguous(why, found.iter(), one));
    }
    Ok(found)
}

async fn by_exact_name(store: &Store, text: &str) -> Result<Vec<Image>> {
    let Ok(name) = text.parse::<Reference>() else {
        return Ok(Vec::new());
    };
    let image = store.images.get(&name).await?;
    Ok(image.filter(has_stated_digest).into_iter().collect())
}

/// Returns whether an image has the digest that its name states, if the name states one. Earlier
/// releases have stored other names. No lookup of such a name finds the image.
fn has_stated_digest(image: &Image) -> bool {
    image.name.allows(&image.target.digest)
}

/// Returns the images that no lookup of the name finds, because the name states another digest.
pub(super) async fn misnamed(store: &Store, text: &str) -> Result<Vec<Image>> {
    let mut found = store.images.get_all(&spellings(text)?).await?;
    found.retain(|image| !has_stated_digest(image));
    Ok(found)
}

/// If the name has a digest, returns the images of its repository that have this digest and, if the
/// name also has a tag, this tag.
async fn by_name_and_digest(store: &Store, full: &FullName) -> Result<Vec<Image>> {
    let Some(digest) = full.digest() else {
        return Ok(Vec::new());
    };
    let is_same = |image: &Image| {
        FullName::of(&image.name).is_some_and(|other| {
            other.host() == full.host()
                && other.repository() == full.repository()
                && full.tag().is_none_or(|tag| other.tag() == Some(tag))
        })
    };
    let mut found = store.images.find(&DigestPrefix::from(*digest)).await?;
    found.retain(is_same);
    Ok(found)
}

/// Returns the images whose digest begins with `prefix`. If there are none, looks for manifests and
/// indexes among the blobs that [`ContentExt::find`] returns for the prefix.
async fn by_digest(store: &Store, prefix: &DigestPrefix) -> Result<BTreeMap<Digest, Vec<Image>>> {
    let mut found: BTreeMap<Digest, Vec<Image>> = BTreeMap::new();
    for image in store.images.find(prefix).await? {
        found.entry(image.target.digest).or_default().push(image);
    }
    if !found.is_empty() {
        return Ok(found);
    }
    for stat in store.content.find(prefix).await? {
        let record = store.blobs().load(&stat.digest).await?;
        let media_type = record.and_then(|(record, _)| record.media_type);
        if let Some(media_type) = media_type.filter(MediaType::is_document) {
            let target = Descriptor::new(media_type, stat.digest, stat.size);
            found.insert(stat.digest, vec![Image::new(stat.digest.into(), target)]);
        }
    }
    Ok(found)
}

/// Returns the name of an image in full, or unchanged if docker would not accept it.
pub(super) fn full_name(image: &Image) -> Reference {
    FullName::of(&image.name).map_or_else(|| image.name.clone(), |full| full.name())
}

/// Removes all spellings of a name that a person typed, even if they refer to different images.
///
/// # Errors
/// Errors of the store.
pub(super) async fn remove_spellings(store: &Store, text: &str) -> Result<()> {
    for name in spellings(text)? {
        store.images.remove(&name).await?;
    }
    Ok(())
}

/// Returns all spellings of a name that a person typed.
fn spellings(text: &str) -> Result<Vec<Reference>> {
    match text.parse::<FullName>() {
        Ok(full) => Ok(full.spellings()),
        Err(_) => Ok(vec![text.parse()?]),
    }
}

/// Removes the other spellings of a name that was written in full.
pub(super) async fn drop_other_spellings(store: &Store, name: &FullName) -> Result<()> {
    for image in store.images.get_all(&name.spellings()[1..]).await? {
        store.images.remove(&image.name).await?;
    }
    Ok(())
}

fn absent() -> Error {
    Error::not_found("the store does not have this image; `cas images` lists all images")
}

/// Returns the error for text that stands for several images. The message asks the user to give
/// `one` instead.
pub(super) fn ambiguous<'a>(
    why: &str,
    images: impl Iterator<Item = &'a Image>,
    one: &str,
) -> Error {
    let listed: Vec<String> = images
        .map(|image| format!("{} ({})", image.name, image.target.digest.short()))
        .collect();
    Error::invalid(format!("{why}: {}; give {one}", listed.join(", ")))
}
