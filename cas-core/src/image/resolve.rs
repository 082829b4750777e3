//! Finding the manifest of an image for a platform.

use std::collections::BTreeSet;
use std::mem;
use std::sync::Mutex;

use async_trait::async_trait;

use super::config::config_platform;
use crate::content::ContentStore;
use crate::descriptor::Descriptor;
use crate::dispatch::{self, Handler, Next, walk};
use crate::document::{Document, Manifest};
use crate::error::{Error, ErrorKind, Result};
use crate::platform::{All, Matcher, Only, Platform};
use crate::sync::lock;

/// A manifest and its descriptor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resolved {
    /// The descriptor, as the index lists it.
    pub descriptor: Descriptor,
    /// The manifest.
    pub manifest: Manifest,
}

/// Returns the manifest of an image for a platform: the best match in its index and nested indexes.
///
/// If `image` is a manifest, it is returned. A manifest whose descriptor states no platform is
/// matched by the platform of its configuration, after all manifests that state one. A match that
/// is not in the store is skipped with a warning, and the next best one is used.
///
/// # Errors
/// `NotFound` if nothing matches, or no match is in the store; `Corrupt` for an invalid document;
/// `Unsupported` if `image` is neither a manifest nor an index.
pub async fn manifest(
    content: &dyn ContentStore,
    image: &Descriptor,
    matcher: &dyn Matcher,
) -> Result<Resolved> {
    if !image.media_type.is_index() {
        return load(content, image).await;
    }
    let candidates = Candidates {
        content,
        matcher,
        root: image,
        found: Mutex::default(),
    };
    walk(&candidates, std::slice::from_ref(image)).await?;
    let found = mem::take(&mut *lock(&candidates.found));
    let (mut named, unnamed): (Vec<_>, Vec<_>) = found
        .into_iter()
        .partition(|manifest| manifest.platform.is_some());
    named.sort_by(|a, b| dispatch::best_first(matcher, a, b));
    let mut missing = Vec::new();
    for descriptor in named {
        match load(content, &descriptor).await {
            Err(error) if error.kind() == ErrorKind::NotFound => pass(descriptor, &mut missing),
            outcome => return outcome,
        }
    }
    match by_config(content, matcher, unnamed, &mut missing).await? {
        Some(resolved) => Ok(resolved),
        None => Err(match &missing[..] {
            [] => no_match(content, image).await?,
            [first, rest @ ..] => not_stored(image, first, rest.len()),
        }),
    }
}

/// Returns the manifest of an image for `platform`. Without a platform, it is the best match for
/// this machine, or `image` itself if that is a manifest.
///
/// # Errors
/// As [`manifest`]; also `NotFound` if `image` is a manifest for another platform.
pub async fn manifest_for(
    content: &dyn ContentStore,
    image: &Descriptor,
    platform: Option<&Platform>,
) -> Result<Resolved> {
    let matcher = Only::new(platform.unwrap_or(&Platform::host()));
    let resolved = manifest(content, image, &matcher).await?;
    if let Some(platform) = platform
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

/// Returns the descriptor of the configuration of an image on a platform.
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

/// Returns the best match among manifests whose platform only their configuration states.
async fn by_config(
    content: &dyn ContentStore,
    matcher: &dyn Matcher,
    manifests: Vec<Descriptor>,
    missing: &mut Vec<Descriptor>,
) -> Result<Option<Resolved>> {
    let mut best: Option<(Platform, Resolved)> = None;
    for descriptor in manifests {
        let resolved = match load(content, &descriptor).await {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                pass(descriptor, missing);
                continue;
            }
            outcome => outcome?,
        };
        let platform = match config_platform(content, &resolved.manifest.config).await {
            Ok(platform) => platform,
            // An artifact, which is not for a platform.
            Err(error) if error.kind() == ErrorKind::Unsupported => continue,
            Err(error) if error.kind() == ErrorKind::NotFound => {
                pass(resolved.manifest.config, missing);
                continue;
            }
            Err(error) => return Err(error),
        };
        let better = |(other, _): &(Platform, _)| matcher.compare(&platform, other).is_lt();
        if suits(matcher, &platform) && best.as_ref().is_none_or(better) {
            best = Some((platform, resolved));
        }
    }
    Ok(best.map(|(_, resolved)| resolved))
}

/// Returns whether a configuration for `platform` matches. One that states no platform always does.
fn suits(matcher: &dyn Matcher, platform: &Platform) -> bool {
    platform.is_unstated() || matcher.matches(platform)
}

fn pass(descriptor: Descriptor, missing: &mut Vec<Descriptor>) {
    let digest = descriptor.digest;
    tracing::warn!(%digest, "a manifest or configuration is missing; trying the next best one");
    missing.push(descriptor);
}

/// Returns the error for an image without a match. It lists the platforms that the store has.
async fn no_match(content: &dyn ContentStore, image: &Descriptor) -> Result<Error> {
    let candidates = Candidates {
        content,
        matcher: &All,
        root: image,
        found: Mutex::default(),
    };
    walk(&candidates, std::slice::from_ref(image)).await?;
    let found = mem::take(&mut *lock(&candidates.found));
    let mut there = BTreeSet::new();
    for manifest in found {
        if content.stat(&manifest.digest).await?.is_some() {
            let stated = platforms(content, &manifest).await?;
            there.extend(stated.iter().map(ToString::to_string));
        }
    }
    let there = match there.len() {
        0 => "it has no image for any other platform either".to_owned(),
        _ => format!("it has: {}", Vec::from_iter(there).join(", ")),
    };
    Ok(
        Error::not_found(format!("the image has nothing for the platform; {there}"))
            .operation("resolve manifest")
            .subject(image.digest),
    )
}

fn not_stored(image: &Descriptor, first: &Descriptor, more: usize) -> Error {
    let more = match more {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    Error::not_found(format!(
        "the index lists content that may be for the platform but is not in the store: {}{more}; \
         import the image for this platform",
        first.digest
    ))
    .operation("resolve manifest")
    .subject(image.digest)
}

async fn load(content: &dyn ContentStore, descriptor: &Descriptor) -> Result<Resolved> {
    match dispatch::document(content, descriptor).await? {
        Document::Manifest(manifest) => Ok(Resolved {
            descriptor: descriptor.clone(),
            manifest: *manifest,
        }),
        Document::Index(_) => Err(Error::internal("an index was read as a manifest")
            .operation("resolve manifest")
            .subject(descriptor.digest)),
    }
}

/// Walks the indexes only, and collects the manifests that may match.
struct Candidates<'a> {
    content: &'a dyn ContentStore,
    matcher: &'a dyn Matcher,
    root: &'a Descriptor,
    found: Mutex<Vec<Descriptor>>,
}

#[async_trait]
impl Handler for Candidates<'_> {
    async fn handle(&self, index: &Descriptor) -> Result<Next> {
        let listed = match dispatch::children(self.content, index).await {
            Err(error) if error.kind() == ErrorKind::NotFound && index != self.root => {
                let digest = index.digest;
                tracing::warn!(%digest, "a nested index is not in the store and is skipped");
                return Ok(Next::NONE);
            }
            outcome => outcome?,
        };
        let suits = |child: &Descriptor| dispatch::suits(child, self.matcher);
        let (indexes, others): (Vec<_>, Vec<_>) = listed
            .into_iter()
            .filter(suits)
            .partition(|child| child.media_type.is_index());
        let manifests = others
            .into_iter()
            .filter(|child| child.media_type.is_manifest());
        let mut found = lock(&self.found);
        found.extend(manifests);
        Ok(Next::Children(indexes))
    }
}

/// Returns the platforms of an image, normalized, each once, in the order of its indexes. The
/// platform `unknown`, which marks attestations, is left out, and so are platforms that are only
/// stated by documents that are not in the store.
///
/// # Errors
/// Errors of reading the documents; `Corrupt` for an invalid document.
pub async fn platforms(content: &dyn ContentStore, image: &Descriptor) -> Result<Vec<Platform>> {
    let platforms = Platforms {
        content,
        root: image,
        found: Mutex::default(),
    };
    let roots = platforms.split_off_named(vec![image.clone()]);
    walk(&platforms, &roots).await?;
    Ok(mem::take(&mut *lock(&platforms.found)))
}

struct Platforms<'a> {
    content: &'a dyn ContentStore,
    root: &'a Descriptor,
    found: Mutex<Vec<Platform>>,
}

impl Platforms<'_> {
    fn add(&self, platform: &Platform) {
        let platform = platform.normalized();
        let mut found = lock(&self.found);
        let none = platform.is_unknown() || platform.is_unstated();
        if !none && !found.contains(&platform) {
            found.push(platform);
        }
    }

    async fn read(&self, descriptor: &Descriptor) -> Result<Next> {
        // Layers are not visited, so what is not a document is a configuration.
        if !descriptor.media_type.is_document() {
            match config_platform(self.content, descriptor).await {
                Ok(platform) => self.add(&platform),
                // An artifact, which is not for a platform.
                Err(error) if error.kind() == ErrorKind::Unsupported => {}
                Err(error) => return Err(error),
            }
            return Ok(Next::NONE);
        }
        let mut children = dispatch::children(self.content, descriptor).await?;
        if descriptor.media_type.is_manifest() {
            children.truncate(1);
        }
        Ok(Next::Children(self.split_off_named(children)))
    }

    /// Adds the platforms that descriptors state. Returns the descriptors that state none; their
    /// content has to be read.
    fn split_off_named(&self, mut descriptors: Vec<Descriptor>) -> Vec<Descriptor> {
        descriptors.retain(|descriptor| {
            let platform = descriptor.platform.as_ref();
            platform.inspect(|platform| self.add(platform)).is_none()
        });
        descriptors
    }
}

#[async_trait]
impl Handler for Platforms<'_> {
    async fn handle(&self, descriptor: &Descriptor) -> Result<Next> {
        match self.read(descriptor).await {
            Err(error) if error.kind() == ErrorKind::NotFound && descriptor != self.root => {
                Ok(Next::NONE)
            }
            outcome => outcome,
        }
    }
}
