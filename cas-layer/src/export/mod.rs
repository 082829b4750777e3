//! Export: images of a store become an archive, the way back of [`import`](mod@crate::import).
//!
//! An archive is a tar of an OCI image layout: `oci-layout`, `index.json`, for docker
//! `manifest.json`, and every blob once. The same images give the same bytes, whatever store they
//! are in and however they are asked for: images stand in the order of their names, blobs in the
//! order of a walk from them, parents before children, and all files belong to root, with mode 644
//! and times of 1970.
//!
//! Blobs publish their bytes, so every digest stays: those of layers, whatever they are compressed
//! with, of manifests, and of an index. For one platform, `index.json` names the manifest of that
//! platform itself, not the index that lists it; without a choice it names what the store does.
//!
//! What is read is held by a lease and checked against its digest on the way. A file gets its name
//! only when it is whole and on the device; a kill leaves a hidden file file it. A caller that
//! drops the future leaves nothing.

mod archive;
mod docker;
mod oci;
mod plan;
mod target;

use std::collections::BTreeMap;

use cas_core::image::Reference;
use cas_core::lease::LeaseGuard;
use cas_core::{Context, Descriptor, Error, Image, Manifest, Platform, Result, Store, image};

pub use self::target::Target;

use self::archive::Archive;
use self::plan::Plan;
use crate::layout;
use crate::progress::Progress;

/// What an archive is made for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// Readers of OCI archives: any platforms.
    #[default]
    Oci,
    /// `docker load` and readers of its archives as well: one platform an image. Docker before
    /// version 23 does not read layers of zstd.
    Docker,
}

/// What is wanted of the images.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct ExportOptions {
    /// What the archive is made for.
    pub format: Format,
    /// The manifest for this platform only. Without it all that the store has; for docker that of
    /// this machine's platform, where an image leaves a choice.
    pub platform: Option<Platform>,
}

impl ExportOptions {
    /// Sets [`format`](Self::format).
    #[must_use]
    pub fn with_format(mut self, format: Format) -> Self {
        self.format = format;
        self
    }

    /// Sets [`platform`](Self::platform).
    #[must_use]
    pub fn with_platform(mut self, platform: impl Into<Option<Platform>>) -> Self {
        self.platform = platform.into();
        self
    }
}

/// An image as the archive has it.
struct Chosen {
    target: Descriptor,
    /// Where the target is one manifest, chosen for a platform.
    manifest: Option<Manifest>,
}

/// Writes `images` into one archive, blobs that they share once; the images with the targets that
/// the archive gives them.
///
/// Platforms of an index that were never stored are left out, with a warning; the index stays as
/// it is.
///
/// # Errors
/// `NotFound` for content that was lost, or a platform that an image has not; `Corrupt` for
/// damaged content; `Unsupported` for what docker cannot load; those of the store and the target.
/// A file under the name of the target is then as it was.
pub async fn export(
    store: &Store,
    images: &[Image],
    target: Target,
    options: &ExportOptions,
    progress: &dyn Progress,
) -> Result<Vec<Image>> {
    let subject = target.to_string();
    let exported = async {
        let (out, pending) = target.open().await?;
        let guard = LeaseGuard::begin(store, "export").await?;
        let written = write_archive(store, &guard, images, out, options, progress).await;
        let chosen = guard.finish_with(written).await?;
        pending.publish().await.map(|()| chosen)
    };
    exported.await.during("export", subject)
}

/// Writes all of the archive.
async fn write_archive(
    store: &Store,
    guard: &LeaseGuard,
    images: &[Image],
    out: target::Out,
    options: &ExportOptions,
    progress: &dyn Progress,
) -> Result<Vec<Image>> {
    let chosen = choose(store, images, options).await?;
    let roots: Vec<Descriptor> = chosen.values().map(|one| one.target.clone()).collect();
    for root in &roots {
        guard.pin_tree(root).await?;
    }
    let plan = Plan::of(store, &roots, progress).await?;
    let mut archive = Archive::new(out);
    archive.file(layout::LAYOUT, oci::version()).await?;
    archive.file(layout::INDEX, oci::index(&chosen)?).await?;
    if options.format == Format::Docker {
        let listed = docker::manifest(store, &chosen, &plan, progress).await?;
        archive.file(layout::DOCKER_MANIFEST, listed).await?;
    }
    for blob in plan.blobs() {
        blob.write(store, &mut archive, progress).await?;
    }
    archive.finish().await?;
    let image = |(name, chosen): (Reference, Chosen)| Image::new(name, chosen.target);
    Ok(chosen.into_iter().map(image).collect())
}

/// What of each image goes into the archive, in the order of names.
async fn choose(
    store: &Store,
    images: &[Image],
    options: &ExportOptions,
) -> Result<BTreeMap<Reference, Chosen>> {
    if images.is_empty() {
        return Err(Error::invalid("no image is given; name one"));
    }
    let mut chosen = BTreeMap::new();
    for image in images {
        let platform = options.platform.as_ref();
        let one = match (options.format, platform) {
            (Format::Oci, None) => Chosen {
                target: image.target.clone(),
                manifest: None,
            },
            _ => image::manifest_for(&*store.content, &image.target, platform)
                .await
                .map(|resolved| Chosen {
                    target: resolved.descriptor,
                    manifest: Some(resolved.manifest),
                })
                .map_err(|error| error.within(&image.name))?,
        };
        chosen.insert(image.name.clone(), one);
    }
    Ok(chosen)
}
