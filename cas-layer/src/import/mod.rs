//! Imports images of an OCI layout, an OCI archive, a docker archive or a directory of skopeo into
//! a store.
//!
//! A directory or an uncompressed tar file is read in place. Only the blobs that the imported
//! images reach are read, several of them concurrently. A stream (a pipe or a compressed archive)
//! is read once. Files of at least 1 MiB in it, and up to 64 smaller files, are stored as they
//! arrive. Any other file is stored only when it is known that an image needs it. Stored files that
//! no image reaches are removed from the store afterwards.
//!
//! [`ingest_blobs`] and [`ingest_image`] store single blobs, whose digests the caller knows.
//!
//! An import first writes the records of the blobs, then the blobs. After a flush, it records the
//! children and referrers of manifests and indexes. Names are written last, so a name is written
//! only after everything that its image reaches is durable. If an import fails, names are
//! unchanged, and the blobs and ingests that the import created are removed, except blobs to which
//! something else refers by then. If the caller drops the future, the ingests are removed in the
//! background, and a garbage collection removes the blobs. If the process crashes, a garbage
//! collection removes the blobs and the ingests.

mod archive;
mod contents;
mod decoded_source;
mod docker;
mod importer;
mod ingest;
mod item;
mod names;
mod naming;
mod oci;
mod part_source;
mod plan;
mod referrers;
mod skopeo_dir;
mod source;
mod spill;
mod spilled;
mod stream;
mod undo;
mod unpack;
mod watched_source;

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use cas_core::image::Reference;
use cas_core::lease::BlobRef;
use cas_core::progress::{Progress, Silent};
use cas_core::{Context, Descriptor, Digest, Error, Image, Platforms, Result, Store};

pub use self::ingest::{
    IngestBlob, IngestSource, IngestState, Ingested, IngestedBlob, IngestedImage, ingest_blobs,
    ingest_image,
};
pub use self::source::Source;

use self::importer::BlobImporter;
use self::item::Item;
use self::plan::Plan;
use self::referrers::Referrer;
use self::unpack::{ChainIds, Unpack, Unpacked};
use crate::Naming;
use crate::unpack::Target;

/// Options of an import.
#[derive(Clone)]
#[non_exhaustive]
pub struct ImportOptions {
    /// The name of the image. If the source has several names, each named image gets `name:tag`,
    /// with the tag of its name in the source. Without this option, the images get the names that
    /// the source gives them. An image that the source does not name gets its digest as its name,
    /// unless it is the only image and this option is set.
    pub name: Option<Reference>,
    /// How [`name`](Self::name) and the names in the source are read. By default, all are used
    /// unchanged.
    pub naming: Naming,
    /// The platforms whose content is imported, by default all in the source. An index is stored
    /// unchanged, but the manifests of other platforms are not stored.
    pub platforms: Platforms,
    /// Receives the progress. By default, the progress is not reported.
    pub progress: Arc<dyn Progress>,
}

impl Default for ImportOptions {
    fn default() -> Self {
        ImportOptions {
            name: None,
            naming: Naming::default(),
            platforms: Platforms::All,
            progress: Arc::new(Silent),
        }
    }
}

impl ImportOptions {
    /// Sets [`name`](Self::name).
    #[must_use]
    pub fn with_name(mut self, name: impl Into<Option<Reference>>) -> Self {
        self.name = name.into();
        self
    }

    /// Sets [`naming`](Self::naming).
    #[must_use]
    pub fn with_naming(mut self, naming: Naming) -> Self {
        self.naming = naming;
        self
    }

    /// Sets [`platforms`](Self::platforms).
    #[must_use]
    pub fn with_platforms(mut self, platforms: impl Into<Platforms>) -> Self {
        self.platforms = platforms.into();
        self
    }

    /// Sets [`progress`](Self::progress).
    #[must_use]
    pub fn with_progress(mut self, progress: Arc<dyn Progress>) -> Self {
        self.progress = progress;
        self
    }
}

/// Imports the images of `source`, and creates or updates their names. Importing the same source
/// again changes nothing. A name in the source that states another digest than that of its image is
/// left out with a warning. An entry of `index.json` without a name, such as a signature, is stored
/// as a referrer of its subject if the subject is an image in the source. An entry of `index.json`
/// or of another index is left out with a warning if its digest has another algorithm than those of
/// [`Algorithm`](cas_core::Algorithm). So is a manifest that lists a digest of another algorithm.
/// The index that lists it is stored unchanged.
///
/// Returns the images in the order of their names.
///
/// # Errors
/// `InvalidArgument` if the source has an unknown format, does not list an image, or gives an image
/// a name that cannot be used, or if the images cannot get the name in `options`, for example
/// because it has a tag and the source has several names; `Corrupt` if the source is damaged or
/// contradicts itself, for example if a file does not match its descriptor; `NotFound` if the
/// source does not exist, is incomplete or has nothing for the platform in `options`; `NotFound` or
/// `Conflict` if a blob that the import needs is removed from the store meanwhile; `Unsupported`
/// for a sparse file in an archive, for a version of the image layout other than 1.0.0, for
/// compressed data that [`Decoder`](crate::codec::Decoder) does not support, or if the source has
/// nothing else than what is left out because of unknown algorithms, or an index has nothing else
/// for the platform in `options`; `OutOfRange` if a bound of [`cas_core::limit`] is exceeded;
/// errors of the source and of the store.
pub async fn import(store: &Store, source: Source, options: &ImportOptions) -> Result<Vec<Image>> {
    let subject = source.to_string();
    let outcome = import_or_roll_back(store, source, options, None).await;
    let (images, _) = outcome.during("import", subject)?;
    Ok(images)
}

/// Imports images as [`import`] does, and unpacks them into snapshots. The images are unpacked for
/// the platform of `options`, or for the platform of this machine if `options` selects all
/// platforms. If the snapshotter can add a parent to a snapshot when it commits the snapshot, one
/// of the images is unpacked while its layers are stored, so that these layers are read only once.
/// Names are written after everything is unpacked.
///
/// Returns each image with its chain ID, which is `None` for an image without layers.
///
/// # Errors
/// Errors of [`import`] and of [`crate::unpack::to_snapshots`]; `NotFound` if an image has nothing
/// for the platform that is unpacked.
pub async fn import_unpacked(
    store: &Store,
    source: Source,
    options: &ImportOptions,
    target: Target<'_>,
) -> Result<Vec<(Image, Option<Digest>)>> {
    let subject = source.to_string();
    let unpack = Unpack {
        target,
        // If all platforms are imported, the platform of this machine is unpacked.
        platforms: options
            .platforms
            .clone()
            .narrowed()
            .preferring(target.snapshotter.os_features()),
        progress: &options.progress,
    };
    let outcome = import_or_roll_back(store, source, options, Some(&unpack)).await;
    let (images, chain_ids) = outcome.during("import", subject)?;
    let with_chain_id = |image: Image| {
        let chain_id = chain_ids.get(&image.target.digest).copied().flatten();
        (image, chain_id)
    };
    Ok(images.into_iter().map(with_chain_id).collect())
}

/// Runs an import under one lease, and undoes it if it fails before the names are written.
async fn import_or_roll_back(
    store: &Store,
    source: Source,
    options: &ImportOptions,
    unpack: Option<&Unpack<'_>>,
) -> Result<(Vec<Image>, ChainIds)> {
    let importer = BlobImporter::begin(store, &*options.progress).await?;
    match store_images(&importer, source, options, unpack).await {
        Ok(stored) => {
            let images = importer.finish(stored.named, &stored.planned).await?;
            Ok((images, stored.chain_ids))
        }
        Err(error) => {
            importer.roll_back().await;
            Err(error)
        }
    }
}

/// What an import has stored.
struct Stored {
    /// The names to write.
    named: BTreeMap<Reference, Descriptor>,
    /// All blobs that the images and their referrers reach, without the layers that were not stored
    /// because the snapshotter has them.
    planned: HashSet<Digest>,
    chain_ids: ChainIds,
}

/// Finds the images of the source, and stores and unpacks their content.
async fn store_images(
    importer: &BlobImporter<'_>,
    source: Source,
    options: &ImportOptions,
    unpack: Option<&Unpack<'_>>,
) -> Result<Stored> {
    let contents = source::open(importer, source).await?;
    let platform = options.platforms.wanted();
    let required = options.platforms.required().is_some();
    let mut plan = Plan::new(importer, &contents, platform.as_ref(), required);
    let mut roots = Vec::new();
    let listed = source::roots(&mut plan).await?;
    if listed.is_empty() {
        return Err(Error::invalid(
            "the source does not list any image; name another source",
        ));
    }
    for root in listed {
        if plan.visit(&root.target).await? {
            roots.push(root);
        } else if platform.is_none() && !plan.unverifiable.contains_key(&root.target.digest) {
            let index = root.target.digest;
            importer.progress.warn(&format!(
                "none of the manifests that the index {index} lists can be imported; the index is \
                 not imported"
            ));
        }
    }
    if roots.is_empty() {
        let unverifiable = plan.unverifiable.pop_first().map(|(_, error)| error);
        let error = unverifiable.or_else(|| plan.no_platform());
        return Err(error.unwrap_or_else(|| {
            Error::not_found(
                "the source is incomplete: it has none of the manifests that its indexes list; \
                 import a complete copy",
            )
        }));
    }
    names::leave_out_wrong(&mut roots, options.naming, importer.progress);
    let referrers = referrers::take(&mut roots, &plan);
    let named = names::assign(roots, options.name.as_ref(), options.naming)?;
    let mut images: Vec<Descriptor> = named.values().cloned().collect();
    images.sort_by_key(|image| image.digest);
    images.dedup_by_key(|image| image.digest);
    let (planned, chain_ids) = store_planned(plan, unpack, &images).await?;
    for Referrer { subject, digest } in referrers {
        importer.record_referrer(&subject, digest).await?;
    }
    Ok(Stored {
        named,
        planned,
        chain_ids,
    })
}

/// Stores the planned blobs, and unpacks `images` if `unpack` is given. The blobs are durable when
/// this function returns.
///
/// Returns the digests of the planned blobs, without the layers that were not stored because the
/// snapshotter has them, and the chain IDs of the unpacked images.
///
/// # Errors
/// Errors of [`BlobImporter::store`], of [`Unpack::store_and_unpack`] and of the store.
async fn store_planned(
    plan: Plan<'_>,
    unpack: Option<&Unpack<'_>>,
    images: &[Descriptor],
) -> Result<(HashSet<Digest>, ChainIds)> {
    let Plan {
        importer,
        mut leaves,
        documents,
        configs,
        ..
    } = plan;
    // If a large blob began last, it would be stored alone at the end, while other cores are idle.
    leaves.sort_by_key(|item| std::cmp::Reverse(item.part.size));
    let planned = leaves.iter().chain(&documents);
    let mut planned: HashSet<Digest> = planned.map(|item| item.descriptor.digest).collect();
    let listed = documents
        .iter()
        .map(|item| item.blob_ref(&planned))
        .collect();
    let leaves = pin_missing(importer, leaves).await?;
    let documents = pin_missing(importer, documents).await?;
    let (configs, layers): (Vec<Item>, Vec<Item>) = leaves
        .into_iter()
        .partition(|item| configs.contains(&item.descriptor.digest));
    let chain_ids = match unpack {
        None => {
            importer.store_all(layers.iter().chain(&configs)).await?;
            importer.store_in_order(&documents).await?;
            ChainIds::new()
        }
        // Configurations and manifests come first: they describe how each layer is to be unpacked.
        Some(unpack) => {
            importer.store_in_order(&configs).await?;
            importer.store_in_order(&documents).await?;
            let unpacked = unpack.store_and_unpack(importer, &layers, images);
            let Unpacked { chain_ids, skipped } = unpacked.await?;
            planned.retain(|digest| !skipped.contains(digest));
            chain_ids
        }
    };
    importer.record_children(listed).await?;
    Ok((planned, chain_ids))
}

/// Pins the blobs of `items`. Returns the items whose blobs the store does not have.
async fn pin_missing(importer: &BlobImporter<'_>, items: Vec<Item>) -> Result<Vec<Item>> {
    let pin = |item: &Item| BlobRef::of(&item.descriptor, Vec::new());
    let pins: Vec<BlobRef> = items.iter().map(pin).collect();
    let present = importer.pin_all(&pins).await?;
    let items = items.into_iter().zip(present);
    Ok(items
        .filter(|(_, present)| !present)
        .map(|(item, _)| item)
        .collect())
}
