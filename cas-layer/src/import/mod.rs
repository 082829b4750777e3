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
mod names;
mod oci;
mod plan;
mod stream;

use std::collections::{BTreeMap, HashSet};
use std::fs::File;
use std::io::{Read, Seek};
use std::path::PathBuf;

use cas_core::image::Reference;
use cas_core::{Context, Descriptor, Digest, Error, Image, Platform, Result, Store, pool};

use self::contents::Contents;
use self::intake::Intake;
use self::plan::Plan;
use crate::codec::{self, Compression};
use crate::layout;
use crate::progress::Progress;

/// Where an image comes from; its kind is detected.
pub enum Source {
    /// A directory or an archive.
    Path(PathBuf),
    /// An archive that can be read once.
    Stream(Box<dyn Read + Send>),
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
    let subject = match &source {
        Source::Path(path) => path.display().to_string(),
        Source::Stream(_) => "stream".to_owned(),
    };
    let intake = Intake::begin(store, progress)
        .await
        .during("import", &subject)?;
    let outcome = match run(&intake, source, options).await {
        Ok((named, planned)) => intake.finish(named, &planned).await,
        Err(error) => {
            intake.undo().await;
            Err(error)
        }
    };
    outcome.during("import", subject)
}

/// Stores what the source has; the names it shall get, and all that these reach.
async fn run(
    intake: &Intake<'_>,
    source: Source,
    options: &Options,
) -> Result<(BTreeMap<Reference, Descriptor>, HashSet<Digest>)> {
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
    let planned = plan.carry_out().await?;
    Ok((named, planned))
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
