//! The sources of images, and the detection of their kinds.

use std::fmt;
use std::fs::File;
use std::io::{Read, Seek};
use std::path::PathBuf;

use cas_core::layout::INDEX;
use cas_core::{Context, Result, pool};
use cas_host::calls::{is_dir, undisturbed};

use super::contents::{Contents, unrecognised};
use super::importer::BlobImporter;
use super::names::Root;
use super::plan::Plan;
use super::{archive, docker, oci, skopeo_dir, stream};
use crate::codec::{self, Compression};
use crate::layout::DOCKER_MANIFEST;

/// A source of images. Its kind is detected from its content.
pub enum Source {
    /// A directory or an archive.
    Path(PathBuf),
    /// An archive that can be read only once.
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

/// Opens a source. A pipe, a stream and a compressed archive are read once, and stored while they
/// are read. Any other source is read in place.
pub(super) async fn open(importer: &BlobImporter<'_>, source: Source) -> Result<Contents> {
    let path = match source {
        Source::Stream(input) => return stream::receive(importer, input).await,
        Source::Path(path) => path,
    };
    if is_dir(&path) {
        return Ok(Contents::Directory(path));
    }
    let mut file = File::open(&path)?;
    let regular = undisturbed(|| file.metadata())?.is_file();
    let mut magic = Vec::new();
    if regular {
        (&mut file)
            .take(codec::MAGIC as u64)
            .read_to_end(&mut magic)?;
        file.rewind()?;
    }
    if regular && codec::detect(&magic) == Compression::None {
        let (contents, warnings) = pool::run(move || archive::scan(file)).await?;
        importer.warn(&warnings);
        return Ok(contents);
    }
    stream::receive(importer, Box::new(file)).await
}

/// Returns the images that the source lists.
///
/// # Errors
/// `InvalidArgument` if the source is neither an OCI layout, a docker archive nor a directory of
/// skopeo; errors of reading its list of images. For a docker archive, these include errors of the
/// configurations and layers.
pub(super) async fn roots(plan: &mut Plan<'_>) -> Result<Vec<Root>> {
    if plan.contents.find(INDEX)?.is_some() {
        return oci::roots(plan).await;
    }
    if let Some(part) = plan.contents.find(DOCKER_MANIFEST)? {
        let data = part.document(plan.importer.store).await;
        let data = data.during("read", DOCKER_MANIFEST)?;
        return match skopeo_dir::is_manifest(&data) {
            true => skopeo_dir::roots(plan, &data),
            false => docker::roots(plan, &data).await,
        };
    }
    match oci::old_roots(plan).await? {
        roots if roots.is_empty() => Err(unrecognised(&[])),
        roots => Ok(roots),
    }
}
