//! Exports images of a store as an archive that [`import`](mod@crate::import) can read.
//!
//! An archive is a tar of an OCI image layout: `oci-layout`, `index.json`, for docker also
//! `manifest.json`, and every blob once. With the same options, the same images give the same
//! bytes, in any order of arguments, and from any store that has the same parts of the images and
//! the same referrers. Images are sorted by name. The blobs have the order in which a depth-first
//! walk from the images, and then from the referrers, first reaches them. All files have the owner
//! 0:0, the mode 644 and the first second of 1970 as time.
//!
//! On request, the archive also has the stored referrers of the images. `index.json` lists the
//! referrers without names, after the images.
//!
//! Blobs are copied unchanged, so the digests of layers, manifests and indexes stay the same. If
//! one platform is selected, `index.json` lists the manifest of that platform in place of the index
//! of the image. An OCI archive of all platforms lists the targets that the images have in the
//! store.
//!
//! All content is verified while it is read. If the store can be written, a lease also pins the
//! content. An archive that is a regular file gets its name only when it is complete and on the
//! device. A killed export leaves a hidden file in the directory of the archive. The next export
//! into this directory removes the file if the file system can lock files. If the caller drops the
//! future while the archive is being synced, the complete archive may be left. Otherwise, a dropped
//! future leaves no file.

mod archive;
mod docker;
mod oci;
mod plan;
mod target;

use std::collections::BTreeMap;
use std::sync::Arc;

use cas_core::image::Reference;
use cas_core::layout::{INDEX, OCI_LAYOUT};
use cas_core::lease::ReadGuard;
use cas_core::progress::{Progress, Silent};
use cas_core::{Context, Descriptor, Error, Image, Manifest, Platforms, Result, Store, image};

pub use self::target::Target;

use self::archive::Archive;
use self::plan::Plan;
use crate::Naming;
use crate::layout::DOCKER_MANIFEST;

/// The readers that an archive is made for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// Readers of OCI archives. The archive may have any number of platforms.
    #[default]
    Oci,
    /// `docker load` and similar readers, and also readers of OCI archives. The archive has one
    /// platform per image. Docker before version 23 does not read zstd layers.
    Docker,
}

/// A function that returns whether a configuration or a layer is written.
pub type BlobFilter = Arc<dyn Fn(&Descriptor) -> bool + Send + Sync>;

/// Options of an export.
#[derive(Clone)]
#[non_exhaustive]
pub struct ExportOptions {
    /// The readers that the archive is made for.
    pub format: Format,
    /// The platforms that are exported, by default all platforms that the store has. A docker
    /// archive has one platform per image, by default the platform of this machine.
    pub platforms: Platforms,
    /// Whether the referrers of the images, and the referrers of these referrers, are written, too.
    /// By default, they are not written, because skopeo and podman read an archive with several
    /// entries only if the user names one entry.
    pub referrers: bool,
    /// How names are written in the annotation [`IMAGE_NAME`](crate::IMAGE_NAME), which containerd
    /// and podman read. By default, names are unchanged. The annotation
    /// [`REF_NAME`](crate::REF_NAME) of the image layout always has the name that the store has. An
    /// image without a name has neither annotation.
    pub naming: Naming,
    /// Selects the configurations and layers that are written, by default all. A reader of the
    /// archive must get the other configurations and layers elsewhere. An archive for docker must
    /// have all configurations and layers. Manifests and indexes are always written.
    pub filter: BlobFilter,
    /// Receives the progress. By default, the progress is not reported.
    pub progress: Arc<dyn Progress>,
}

impl Default for ExportOptions {
    fn default() -> Self {
        ExportOptions {
            format: Format::default(),
            platforms: Platforms::All,
            referrers: false,
            naming: Naming::default(),
            filter: Arc::new(|_| true),
            progress: Arc::new(Silent),
        }
    }
}

impl ExportOptions {
    /// Sets [`format`](Self::format).
    #[must_use]
    pub fn with_format(mut self, format: Format) -> Self {
        self.format = format;
        self
    }

    /// Sets [`platforms`](Self::platforms).
    #[must_use]
    pub fn with_platforms(mut self, platforms: impl Into<Platforms>) -> Self {
        self.platforms = platforms.into();
        self
    }

    /// Sets [`referrers`](Self::referrers).
    #[must_use]
    pub fn with_referrers(mut self, referrers: bool) -> Self {
        self.referrers = referrers;
        self
    }

    /// Sets [`naming`](Self::naming).
    #[must_use]
    pub fn with_naming(mut self, naming: Naming) -> Self {
        self.naming = naming;
        self
    }

    /// Sets [`filter`](Self::filter).
    #[must_use]
    pub fn with_filter(mut self, filter: BlobFilter) -> Self {
        self.filter = filter;
        self
    }

    /// Sets [`progress`](Self::progress).
    #[must_use]
    pub fn with_progress(mut self, progress: Arc<dyn Progress>) -> Self {
        self.progress = progress;
        self
    }

    /// Returns the platforms that are exported. In an archive for docker, [`Platforms::All`] stands
    /// for the platform of this machine.
    pub fn exported_platforms(&self) -> Platforms {
        let platforms = self.platforms.clone();
        match self.format {
            Format::Oci => platforms,
            Format::Docker => platforms.narrowed(),
        }
    }
}

/// An image as it is in the archive.
struct Chosen {
    target: Descriptor,
    /// The manifest, if one was chosen for a platform.
    manifest: Option<Manifest>,
}

/// Writes `images` into one archive. Blobs that they share are written once. Children of an index
/// that are not complete in the store are left out with a warning, and so are missing layers that
/// registries do not distribute. The manifests and indexes that list them stay unchanged.
///
/// Returns the images, sorted by name, each with the descriptor of the manifest or index that the
/// archive lists for it. If two of `images` have the same name, only the last one is written.
///
/// # Errors
/// `InvalidArgument` if `images` is empty, or if `target` is a directory, a path without a UTF-8
/// file name, or a path in something that is not a directory; `NotFound` if the store has lost
/// content, a pull discarded a layer after unpacking it, a snapshotter keeps a layer only as a tar,
/// an image does not have the selected platform, or an archive for docker lacks a configuration or
/// a layer; `Corrupt` for damaged content; `Unsupported` if the archive is for docker, and docker
/// cannot load an image; `OutOfRange` for more than
/// [`limit::REFERRERS`](cas_core::limit::REFERRERS) referrers, for more than
/// [`limit::DESCRIPTORS`](cas_core::limit::DESCRIPTORS) images and referrers, for an `index.json`
/// of more than [`limit::DOCUMENT_READ`](cas_core::limit::DOCUMENT_READ) bytes, or if an image
/// exceeds a bound of [`walk`](cas_core::dispatch::walk()); errors of the store and of `target`.
///
/// After an error, an existing regular file at the path of `target` is unchanged. The only
/// exception is an error of the last step, the sync of the directory: the archive has then replaced
/// the file.
pub async fn export(
    store: &Store,
    images: &[Image],
    target: Target,
    options: &ExportOptions,
) -> Result<Vec<Image>> {
    let subject = target.to_string();
    let exported = async {
        let (out, pending) = target.open().await?;
        let guard = ReadGuard::begin(store, "export").await?;
        let written = write_archive(store, &guard, images, out, options).await;
        let chosen = guard.finish_with(written).await?;
        pending.publish().await.map(|()| chosen)
    };
    exported.await.during("export", subject)
}

/// Writes the whole archive. Returns the images with their targets in it.
async fn write_archive(
    store: &Store,
    guard: &ReadGuard,
    images: &[Image],
    out: target::Out,
    options: &ExportOptions,
) -> Result<Vec<Image>> {
    let progress = &*options.progress;
    let chosen = choose(store, images, options).await?;
    let roots: Vec<Descriptor> = chosen.values().map(|one| one.target.clone()).collect();
    for root in &roots {
        guard.pin_tree(root).await?;
    }
    warn_of_names(&chosen, progress);
    let mut plan = Plan::of(store, &roots, &options.filter, progress).await?;
    let referrers = match options.referrers {
        true => plan.add_referrers(store, &options.filter, progress).await?,
        false => Vec::new(),
    };
    let mut archive = Archive::new(out);
    archive.file(OCI_LAYOUT, oci::version()).await?;
    archive
        .file(INDEX, oci::index(&chosen, &referrers, options.naming)?)
        .await?;
    if options.format == Format::Docker {
        let listed = docker::manifest(store, &chosen, &plan, progress).await?;
        archive.file(DOCKER_MANIFEST, listed).await?;
    } else {
        warn_of_types(&chosen, progress);
    }
    for blob in plan.blobs() {
        blob.write(store, &mut archive, progress).await?;
    }
    archive.finish().await?;
    let image = |(name, chosen): (Reference, Chosen)| Image::new(name, chosen.target);
    Ok(chosen.into_iter().map(image).collect())
}

/// Warns of names that are left out, and of names that readers of image layouts may not find.
fn warn_of_names(chosen: &BTreeMap<Reference, Chosen>, progress: &dyn Progress) {
    for (name, one) in chosen {
        let digest = one.target.digest;
        // An image without a name has its digest as its name.
        if !name.allows(&digest) && name.as_str().contains('@') {
            progress.warn(&format!(
                "the archive does not have the name {name}, which contains a digest: the image in \
                 the archive has another digest, {digest}; to keep the name, export all platforms \
                 with --format oci"
            ));
        }
    }
    for name in chosen.keys().filter(|name| !name.is_layout_name()) {
        progress.warn(&format!(
            "the OCI image-spec does not allow the name {name} in an image layout; skopeo and \
             umoci may refuse to select the image by this name"
        ));
    }
}

/// Warns of images that some readers do not find in an image layout by their names.
fn warn_of_types(chosen: &BTreeMap<Reference, Chosen>, progress: &dyn Progress) {
    let is_docker = |(_, one): &(&Reference, &Chosen)| one.target.media_type.is_docker();
    let mut names = chosen.iter().filter(is_docker).map(|(name, _)| name);
    let Some(first) = names.next() else {
        return;
    };
    let more = match names.count() {
        0 => String::new(),
        more => format!(" (and {more} more)"),
    };
    progress.warn(&format!(
        "in an OCI archive, skopeo, podman and umoci cannot select an image by name if its \
         manifest or index has one of Docker's types; for these programs, export {first}{more} \
         with --format docker"
    ));
}

/// Returns the part of each image that goes into the archive, sorted by name.
async fn choose(
    store: &Store,
    images: &[Image],
    options: &ExportOptions,
) -> Result<BTreeMap<Reference, Chosen>> {
    if images.is_empty() {
        return Err(Error::invalid("no image is given; name at least one"));
    }
    let mut chosen = BTreeMap::new();
    let platforms = options.exported_platforms();
    for image in images {
        let one = match &platforms {
            Platforms::All => Chosen {
                target: image.target.clone(),
                manifest: None,
            },
            one => image::manifest_for(&*store.content, &image.target, one)
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
