//! Which manifest of an image is the one for a platform.

use std::sync::{Mutex, PoisonError};

use async_trait::async_trait;

use super::config::config_platform;
use crate::content::ContentStore;
use crate::descriptor::Descriptor;
use crate::dispatch::{self, Handler, Next, walk};
use crate::document::{Document, Manifest};
use crate::error::{Error, ErrorKind, Result};
use crate::platform::{Matcher, Only, Platform};
use crate::sync::lock;

/// A manifest and where it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resolved {
    /// Its descriptor, as the index lists it.
    pub descriptor: Descriptor,
    /// What it says.
    pub manifest: Manifest,
}

/// The manifest of an image for a platform: the best match in its index and the indexes in that.
///
/// A root that is no index is returned as it is. A manifest whose descriptor names no platform is
/// matched by that of its configuration, and comes after all that do name one. A match that is
/// not in the store is passed over for the next best, with a warning.
///
/// # Errors
/// `NotFound` when nothing matches, or what matches is not in the store; `Corrupt` for a document
/// that is not what it should be; `Unsupported` when `image` is neither manifest nor index.
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
    let found = candidates.found.into_inner();
    let (mut named, unnamed): (Vec<_>, Vec<_>) = found
        .unwrap_or_else(PoisonError::into_inner)
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
        None => Err(no_match(image, &missing)),
    }
}

/// The manifest of an image for a platform that its caller insists on; without one for this
/// machine's, where the image leaves a choice.
///
/// # Errors
/// As [`manifest`]; `NotFound`, too, when the image is one manifest, for another platform.
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
        if !matcher.matches(&found) {
            return Err(
                Error::not_found(format!("has no {platform}, it is for {found} only"))
                    .operation("resolve manifest")
                    .subject(image.digest),
            );
        }
    }
    Ok(resolved)
}

/// The descriptor of the configuration of an image on a platform.
///
/// # Errors
/// Those of [`manifest`].
pub async fn config(
    content: &dyn ContentStore,
    image: &Descriptor,
    matcher: &dyn Matcher,
) -> Result<Descriptor> {
    let resolved = manifest(content, image, matcher).await?;
    Ok(resolved.manifest.config)
}

/// The best of those manifests whose platform only their configuration names.
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
            // An artifact, which runs nowhere.
            Err(error) if error.kind() == ErrorKind::Unsupported => continue,
            Err(error) if error.kind() == ErrorKind::NotFound => {
                pass(resolved.manifest.config, missing);
                continue;
            }
            Err(error) => return Err(error),
        };
        let better = |(other, _): &(Platform, _)| matcher.compare(&platform, other).is_lt();
        if matcher.matches(&platform) && best.as_ref().is_none_or(better) {
            best = Some((platform, resolved));
        }
    }
    Ok(best.map(|(_, resolved)| resolved))
}

fn pass(descriptor: Descriptor, missing: &mut Vec<Descriptor>) {
    let digest = descriptor.digest;
    tracing::warn!(%digest, "not in the store; the next best manifest is tried");
    missing.push(descriptor);
}

fn no_match(image: &Descriptor, missing: &[Descriptor]) -> Error {
    let message = match missing {
        [] => "no match for platform in the index".to_owned(),
        [first, rest @ ..] => {
            let more = match rest.len() {
                0 => String::new(),
                more => format!(" and {more} more"),
            };
            format!(
                "the match for the platform is listed but not in the store: {}{more}; import the \
                 image for this platform",
                first.digest
            )
        }
    };
    Error::not_found(message)
        .operation("resolve manifest")
        .subject(image.digest)
}

async fn load(content: &dyn ContentStore, descriptor: &Descriptor) -> Result<Resolved> {
    match dispatch::document(content, descriptor).await? {
        Document::Manifest(manifest) => Ok(Resolved {
            descriptor: descriptor.clone(),
            manifest: *manifest,
        }),
        Document::Index(_) => Err(Error::internal("an index was taken for a manifest")
            .operation("resolve manifest")
            .subject(descriptor.digest)),
    }
}

/// Walks the indexes alone, and gathers the manifests that may do.
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
                tracing::warn!(%digest, "nested index is not in the store; it is passed over");
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

/// The platforms an image is made for, normalised, each once, in the order of its indexes;
/// `unknown`, as attestations are marked, is left out, and so is what only documents would tell
/// that a sparse image lacks.
///
/// # Errors
/// Those of reading what has to be read; `Corrupt`.
pub async fn platforms(content: &dyn ContentStore, image: &Descriptor) -> Result<Vec<Platform>> {
    let platforms = Platforms {
        content,
        root: image,
        found: Mutex::default(),
    };
    let roots = platforms.take_named(vec![image.clone()]);
    walk(&platforms, &roots).await?;
    let found = platforms.found.into_inner();
    Ok(found.unwrap_or_else(PoisonError::into_inner))
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
        if !platform.is_unknown() && !found.contains(&platform) {
            found.push(platform);
        }
    }

    async fn read(&self, descriptor: &Descriptor) -> Result<Next> {
        if descriptor.media_type.is_config() {
            self.add(&config_platform(self.content, descriptor).await?);
        }
        let mut children = dispatch::children(self.content, descriptor).await?;
        if descriptor.media_type.is_manifest() {
            children.truncate(1);
        }
        Ok(Next::Children(self.take_named(children)))
    }
    /// Those that name no platform, and have to be read for it.
    fn take_named(&self, mut descriptors: Vec<Descriptor>) -> Vec<Descriptor> {
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
