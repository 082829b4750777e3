//! Finding the manifest of an image for a platform.

use std::collections::BTreeSet;

use super::candidates::Candidates;
use super::configuration::config_platform;
use super::platforms::platforms;
use crate::content::ContentStore;
use crate::descriptor::Descriptor;
use crate::dispatch;
use crate::document::{Document, Manifest, left_out};
use crate::error::{Error, ErrorKind, Result};
use crate::platform::{All, Matcher, Only, Platform, Platforms, in_words};

/// A manifest and its descriptor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resolved {
    /// The descriptor of the manifest, as its index lists it. If the image is a manifest, this is
    /// the descriptor that the caller gave.
    pub descriptor: Descriptor,
    /// The manifest.
    pub manifest: Manifest,
    /// The indexes that lead to the manifest, outermost first. There are none if the image is a
    /// manifest.
    pub indexes: Vec<Descriptor>,
}

/// Returns the manifest of an image for a platform: the best match in its index and nested indexes.
///
/// If `image` is a manifest, it is returned, whatever its platform. Manifests whose descriptors
/// state no platform are tried last, by the platforms that their configurations state. A
/// configuration that states no platform matches, too. A match or a nested index that is not in the
/// store is skipped with a warning, and the best match among the others is used. A nested index is
/// skipped in the same way if it is damaged, or if all of its entries are [left
/// out](crate::document::left_out). So is a manifest that states no platform, if the manifest or
/// its configuration is damaged, or if the manifest has digests of unknown algorithms, because it
/// may be for another platform.
///
/// # Errors
/// `NotFound` if `image` is not in the store, nothing matches, or no match is in the store;
/// `Corrupt` if `image` or the best match is damaged, or if nothing matches and a damaged document
/// was skipped; `OutOfRange` if a document is too large to be read, or if the indexes exceed a
/// bound of [`walk`](crate::dispatch::walk()); `Unsupported` if `image` is neither a manifest nor
/// an index, if `image` or the best match cannot be used because of digests of unknown algorithms,
/// or if nothing matches and a document was skipped because of such digests; errors of the store.
pub async fn manifest(
    content: &dyn ContentStore,
    image: &Descriptor,
    matcher: &dyn Matcher,
) -> Result<Resolved> {
    if !image.media_type.is_index() {
        return load(content, image).await;
    }
    let mut candidates = Candidates::of(content, image, matcher).await?;
    let mut skipped = Skipped {
        missing: Vec::new(),
        damaged: candidates.damaged.take(),
    };
    let found = best(content, &candidates.manifests, matcher, &mut skipped).await?;
    let mut resolved = match (found, skipped.damaged) {
        (Some(resolved), None) => resolved,
        (Some(resolved), Some(error)) => {
            tracing::warn!(%error, "a damaged part of the image was skipped");
            resolved
        }
        (None, Some(error)) => return Err(error),
        (None, None) => {
            skipped.missing.extend(candidates.missing);
            return Err(no_match(content, image, &skipped.missing).await?);
        }
    };
    resolved.indexes = candidates.indexes_above(&resolved.descriptor);
    Ok(resolved)
}

/// The manifests and configurations that may match but cannot be read.
struct Skipped {
    /// Those that are not in the store.
    missing: Vec<Descriptor>,
    /// The error for the first that is damaged, or that cannot be verified.
    damaged: Option<Error>,
}

impl Skipped {
    /// Adds content that could not be read because of `error`.
    ///
    /// # Errors
    /// `error`, if the content is neither missing nor damaged, and not a manifest that cannot be
    /// verified.
    fn add(&mut self, descriptor: Descriptor, error: Error) -> Result<()> {
        match error.kind() {
            ErrorKind::NotFound => {
                let digest = descriptor.digest;
                tracing::warn!(
                    %digest,
                    "a manifest or configuration is missing; trying the next best match"
                );
                self.missing.push(descriptor);
            }
            ErrorKind::Corrupt | ErrorKind::Unsupported => {
                self.damaged.get_or_insert(error);
            }
            _ => return Err(error),
        }
        Ok(())
    }
}

/// Returns the best match that is in the store. Adds to `skipped` what may match but cannot be
/// read.
async fn best(
    content: &dyn ContentStore,
    manifests: &[Descriptor],
    matcher: &dyn Matcher,
    skipped: &mut Skipped,
) -> Result<Option<Resolved>> {
    let (mut named, unnamed): (Vec<_>, Vec<_>) = manifests
        .iter()
        .cloned()
        .partition(|manifest| manifest.platform.is_some());
    named.sort_by(|a, b| dispatch::best_first(matcher, a, b));
    for descriptor in named {
        match load(content, &descriptor).await {
            Err(error) if error.kind() == ErrorKind::NotFound => skipped.add(descriptor, error)?,
            outcome => return outcome.map(Some),
        }
    }
    by_config(content, matcher, unnamed, skipped).await
}

/// Returns the manifest of an image for the platform that `platforms` selects. This is the best
/// match, or `image` itself if `image` is a manifest.
///
/// # Errors
/// Errors of [`manifest`]; `InvalidArgument` for [`Platforms::All`].
///
/// If `image` is a manifest, and [`Platforms::required`] returns a platform for `platforms`, also:
/// `NotFound` if the manifest is for another platform; errors of [`config_platform`].
pub async fn manifest_for(
    content: &dyn ContentStore,
    image: &Descriptor,
    platforms: &Platforms,
) -> Result<Resolved> {
    let matcher = Only::new(&platforms.single()?);
    let resolved = manifest(content, image, &matcher).await?;
    if let Some(platform) = platforms.required()
        && !image.media_type.is_index()
    {
        let found = config_platform(content, &resolved.manifest.config).await?;
        if !suits(&matcher, &found) {
            return Err(Error::not_found(format!(
                "the image is for {found} only, not for {platform}; choose {found}"
            ))
            .operation("resolve manifest")
            .subject(image.digest));
        }
    }
    Ok(resolved)
}

/// Returns the descriptor of the configuration of an image for a platform.
///
/// # Errors
/// Errors of [`manifest`].
pub async fn config(
    content: &dyn ContentStore,
    image: &Descriptor,
    matcher: &dyn Matcher,
) -> Result<Descriptor> {
    let resolved = manifest(content, image, matcher).await?;
    Ok(resolved.manifest.config)
}

/// Returns the best match among manifests whose platforms are stated only by their configurations.
async fn by_config(
    content: &dyn ContentStore,
    matcher: &dyn Matcher,
    manifests: Vec<Descriptor>,
    skipped: &mut Skipped,
) -> Result<Option<Resolved>> {
    let mut best: Option<(Platform, Resolved)> = None;
    for descriptor in manifests {
        let resolved = match load(content, &descriptor).await {
            Ok(resolved) => resolved,
            Err(error) => {
                skipped.add(descriptor, error)?;
                continue;
            }
        };
        let platform = match config_platform(content, &resolved.manifest.config).await {
            Ok(platform) => platform,
            // The manifest describes an artifact, which is not for a platform.
            Err(error) if error.kind() == ErrorKind::Unsupported => continue,
            Err(error) => {
                skipped.add(resolved.manifest.config, error)?;
                continue;
            }
        };
        let better = |(other, _): &(Platform, _)| matcher.compare(&platform, other).is_lt();
        if suits(matcher, &platform) && best.as_ref().is_none_or(better) {
            best = Some((platform, resolved));
        }
    }
    Ok(best.map(|(_, resolved)| resolved))
}

/// Returns whether a configuration for `platform` matches. A configuration that states no platform
/// always matches.
fn suits(matcher: &dyn Matcher, platform: &Platform) -> bool {
    platform.is_unstated() || matcher.matches(platform)
}

/// Returns the error for an image for which no match was found. `missing` lists the content that
/// may match, but is not in the store. The error lists the platforms for which the store has the
/// image.
async fn no_match(
    content: &dyn ContentStore,
    image: &Descriptor,
    missing: &[Descriptor],
) -> Result<Error> {
    let there = stored_platforms(content, image).await?;
    let there = match there.len() {
        0 => "the store does not have the image for any other platform either".to_owned(),
        _ => format!("the store has the image for: {}", in_words(&there)),
    };
    let unverifiable = left_out(&dispatch::read(content, image).await?);
    let why = match missing {
        [] => {
            let which = unverifiable.map(|what| format!(" that can be verified: {what}"));
            let which = which.unwrap_or_default();
            format!("the image has no manifest for the requested platform{which}; {there}")
        }
        [first, rest @ ..] => {
            let more = match rest.len() {
                0 => String::new(),
                more => format!(" and {more} more"),
            };
            format!(
                "the index lists content that may be for the requested platform but is not in the \
                 store: {}{more}; pull or import the image for this platform; {there}",
                first.digest
            )
        }
    };
    Ok(Error::not_found(why)
        .operation("resolve manifest")
        .subject(image.digest))
}

/// Returns the platforms of the manifests of an index, without manifests that are missing, damaged
/// or not verifiable.
async fn stored_platforms(
    content: &dyn ContentStore,
    image: &Descriptor,
) -> Result<BTreeSet<String>> {
    use ErrorKind::{Corrupt, NotFound, Unsupported};
    let candidates = Candidates::of(content, image, &All).await?;
    let mut there = BTreeSet::new();
    for manifest in candidates.manifests {
        if content.stat(&manifest.digest).await?.is_some() {
            match platforms(content, &manifest).await {
                Err(error) if matches!(error.kind(), NotFound | Corrupt | Unsupported) => {}
                stated => there.extend(stated?.iter().map(ToString::to_string)),
            }
        }
    }
    Ok(there)
}

async fn load(content: &dyn ContentStore, descriptor: &Descriptor) -> Result<Resolved> {
    match dispatch::document(content, descriptor).await? {
        Document::Manifest(manifest) => Ok(Resolved {
            descriptor: descriptor.clone(),
            manifest: *manifest,
            indexes: Vec::new(),
        }),
        Document::Index(_) => Err(Error::internal(
            "an index was read as a manifest; please report it",
        )
        .operation("resolve manifest")
        .subject(descriptor.digest)),
    }
}
