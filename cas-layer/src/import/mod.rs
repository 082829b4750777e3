//! Import: an OCI layout, an OCI archive or a docker archive becomes images of a store.
//!
//! What can be sought in (a directory, a plain tar file) is read where it lies: only what the
//! chosen images reach, several blobs at once. A stream (a pipe, a compressed archive) is read
//! once and every file of it is stored as it comes; what no image wants goes again.
//!
//! The order is blobs, flush, records, names: no name is made before what it stands for is
//! durable. After an error, names are as they were, and the blobs and ingests that this import
//! made are removed unless an image reaches them by now; a caller that drops the future, or a
//! crash, leaves them to the collector.

mod archive;
mod contents;
mod docker;
mod intake;
mod item;
mod names;
mod oci;
mod plan;
mod stream;
mod unpack;

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::fs::File;
use std::io::{Read, Seek};
use std::path::PathBuf;
use std::sync::Arc;

use cas_core::image::Reference;
use cas_core::lease::BlobRef;
use cas_core::{Context, Descriptor, Digest, Error, Image, Platform, Result, Store, pool};

use self::contents::Contents;
use self::intake::Intake;
use self::item::Item;
use self::plan::Plan;
use self::unpack::{Chains, Unpack};
use crate::codec::{self, Compression};
use crate::layout;
use crate::progress::Progress;
use crate::unpack::Target;

/// Where an image comes from; its kind is detected.
pub enum Source {
    /// A directory or an archive.
    Path(PathBuf),
    /// An archive that can be read once.
    Stream(Box<dyn Read + Send>),
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Source::Path(path) => path.display().fmt(f),
            Source::Stream(_) => f.write_str("stream"),
        }
    }
}

/// What is wanted of it.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// The name of the image; where the source holds several tags, `name:tag` each.
    pub name: Option<Reference>,
    /// Import content for this platform only; an index stays as it is, with the rest missing.
    /// Without it, everything that the source has.
    pub platform: Option<Platform>,
}

/// Imports the images of `source`, and makes or re-points their names; importing again changes
/// nothing.
///
/// # Errors
/// `InvalidArgument` when the source is no image, or has no name and none is given; `Corrupt`
/// when anything in it is not what refers to it says; `NotFound` when it has nothing for the
/// platform; those of the store.
pub async fn import(
    store: &Store,
    source: Source,
    options: &Options,
    progress: &dyn Progress,
) -> Result<Vec<Image>> {
    let subject = source.to_string();
    let outcome = whole(store, source, options, None, progress).await;
    let (images, _) = outcome.during("import", subject)?;
    Ok(images)
}

/// The same, and unpacks the images for the wanted platform, or else this machine's, into
/// snapshots; each with its chain id, which an image without layers has not. Layers are read once
/// for both, where that can be. No name is made before all are unpacked.
///
/// # Errors
/// As [`import`] and [`crate::unpack::to_snapshots`].
pub async fn import_unpacked(
    store: &Store,
    source: Source,
    options: &Options,
    target: Target<'_>,
    progress: &Arc<dyn Progress>,
) -> Result<Vec<(Image, Option<Digest>)>> {
    let subject = source.to_string();
    let unpack = Unpack {
        target,
        platform: options.platform.as_ref(),
        progress,
    };
    let outcome = whole(store, source, options, Some(&unpack), &**progress).await;
    let (images, chains) = outcome.during("import", subject)?;
    let chain = |image: &Image| chains.get(&image.target.digest).copied().flatten();
    let pairs = images.into_iter().map(|image| {
        let chain = chain(&image);
        (image, chain)
    });
    Ok(pairs.collect())
}

async fn whole(
    store: &Store,
    source: Source,
    options: &Options,
    unpack: Option<&Unpack<'_>>,
    progress: &dyn Progress,
) -> Result<(Vec<Image>, Chains)> {
    let intake = Intake::begin(store, progress).await?;
    match run(&intake, source, options, unpack).await {
        Ok(Stored {
            named,
            planned,
            chains,
        }) => Ok((intake.finish(named, &planned).await?, chains)),
        Err(error) => {
            intake.undo().await;
            Err(error)
        }
    }
}

/// What a source has brought.
struct Stored {
    /// The names it shall get.
    named: BTreeMap<Reference, Descriptor>,
    /// All that these reach.
    planned: HashSet<Digest>,
    chains: Chains,
}

async fn run(
    intake: &Intake<'_>,
    source: Source,
    options: &Options,
    unpack: Option<&Unpack<'_>>,
) -> Result<Stored> {
    let contents = open(intake, source).await?;
    let mut plan = Plan::new(intake, &contents, options.platform.as_ref());
    let mut roots = Vec::new();
    let name = options.name.as_ref();
    for root in names::candidates(roots_of(&mut plan).await?, name)? {
        if plan.visit(&root.target).await? {
            roots.push(root);
        }
    }
    if let (true, Some(error)) = (roots.is_empty(), plan.unsuited()) {
        return Err(error);
    }
    let named = names::assign(roots, name)?;
    let mut images: Vec<Descriptor> = named.values().cloned().collect();
    images.sort_by_key(|image| image.digest);
    images.dedup_by_key(|image| image.digest);
    let (planned, chains) = carry_out(plan, unpack, &images).await?;
    Ok(Stored {
        named,
        planned,
        chains,
    })
}

/// Stores it all, and unpacks `images` where that is wanted; it is durable once the import is
/// finished. What it is, and what was unpacked.
///
/// # Errors
/// `Corrupt` for content that is not what refers to it says; those of the store.
async fn carry_out(
    plan: Plan<'_>,
    unpack: Option<&Unpack<'_>>,
    images: &[Descriptor],
) -> Result<(HashSet<Digest>, Chains)> {
    let Plan {
        intake,
        mut leaves,
        documents,
        ..
    } = plan;
    // A large blob that begins last would keep one core idle.
    leaves.sort_by_key(|item| std::cmp::Reverse(item.part.size));
    let planned = leaves.iter().chain(&documents);
    let planned: HashSet<Digest> = planned.map(|item| item.descriptor.digest).collect();
    let leaves = missing(intake, leaves, &planned).await?;
    let documents = missing(intake, documents, &planned).await?;
    let Some(unpack) = unpack else {
        intake.copy_all(&leaves).await?;
        intake.copy_each(&documents).await?;
        return Ok((planned, Chains::new()));
    };
    // What describes the layers comes before them, to tell what becomes of each.
    let is_config = |item: &Item| item.descriptor.media_type.is_config();
    let (configs, layers): (Vec<Item>, Vec<Item>) = leaves.into_iter().partition(is_config);
    intake.copy_each(&configs).await?;
    intake.copy_each(&documents).await?;
    let chains = unpack.take_in(intake, &layers, images).await?;
    Ok((planned, chains))
}

/// Holds the blobs of `items`; those that the store has not.
async fn missing(
    intake: &Intake<'_>,
    items: Vec<Item>,
    planned: &HashSet<Digest>,
) -> Result<Vec<Item>> {
    let wanted = |item: &Item| {
        let mut wanted = BlobRef::of(&item.descriptor, item.children.clone());
        let absent = item
            .children
            .iter()
            .filter(|child| !planned.contains(child));
        wanted.absent = absent.copied().collect();
        wanted
    };
    let wanted: Vec<BlobRef> = items.iter().map(wanted).collect();
    let there = intake.hold_all(&wanted).await?;
    let items = items.into_iter().zip(there);
    Ok(items
        .filter(|(_, there)| !there)
        .map(|(item, _)| item)
        .collect())
}

/// What the source says its images are.
async fn roots_of(plan: &mut Plan<'_>) -> Result<Vec<names::Root>> {
    if plan.contents.find(layout::INDEX)?.is_some() {
        return oci::roots(plan).await;
    }
    if plan.contents.find(layout::DOCKER_MANIFEST)?.is_some() {
        return docker::roots(plan).await;
    }
    Err(unrecognised())
}

fn unrecognised() -> Error {
    Error::invalid(
        "unrecognised image format: expected an OCI layout directory, or a tar archive (plain, \
         gzip or zstd) with an OCI layout or with docker's manifest.json",
    )
}

async fn open(intake: &Intake<'_>, source: Source) -> Result<Contents> {
    let path = match source {
        Source::Stream(input) => return stream::receive(intake, input).await,
        Source::Path(path) => path,
    };
    if path.is_dir() {
        return Ok(Contents::Directory(path));
    }
    let mut file = File::open(&path)?;
    let regular = file.metadata()?.is_file();
    let mut magic = Vec::new();
    if regular {
        (&mut file).take(8).read_to_end(&mut magic)?;
        file.rewind()?;
    }
    if regular && codec::detect(&magic) == Compression::None {
        return pool::run(move || archive::scan(file)).await;
    }
    stream::receive(intake, Box::new(file)).await
}
