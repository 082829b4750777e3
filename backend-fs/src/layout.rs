//! The directory: what makes it an OCI image layout, and what makes it ours.

use std::io;
use std::path::Path;

use cas_core::{Error, Result};
use cas_host::{Dir, Lock};
use serde::{Deserialize, Serialize};

/// The directory of ours inside the layout.
const OURS: &str = ".cas";
const FORMAT: &str = "format.json";
const MARK: &str = "oci-layout";
const INDEX: &str = "index.json";
/// Version of the layout that every reader knows; umoci refuses any other.
const LAYOUT_VERSION: &str = "1.0.0";
const KIND: &str = "fs";
const VERSION: u32 = 1;
/// Largest of the small files that say what a directory is.
const SMALL: u64 = 64 << 10;

/// The open directories of a store.
pub(crate) struct Layout {
    /// The layout itself.
    pub(crate) root: Dir,
    /// `.cas/`; absent where the store cannot be written and was never ours.
    pub(crate) ours: Option<Dir>,
    /// Whether the store can be written.
    pub(crate) writable: bool,
}

/// What a store says of itself.
#[derive(Serialize, Deserialize)]
struct Format {
    kind: String,
    version: u32,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Mark {
    image_layout_version: String,
}

impl Layout {
    /// Opens the layout at `path`: makes one where nothing is, finishes one whose making was cut
    /// off, adopts one that others made.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        make_path(path)?;
        let root = Dir::open(path)?;
        let Some(ours) = open_ours(&root)? else {
            return Self::read_only(root);
        };
        // Every step is repeated until the format file, the last, is there.
        let lock = match Lock::exclusive(&ours, "lock") {
            Err(error) if cannot_write(&error) => return Self::read_only(root),
            lock => lock?,
        };
        if !check_format(&ours)? {
            complete(&root, &ours)?;
        }
        check_mark(&root)?;
        drop(lock);
        Ok(Layout {
            root,
            ours: Some(ours),
            writable: true,
        })
    }

    fn read_only(root: Dir) -> Result<Self> {
        check_mark(&root)?;
        let ours = match root.open_dir(OURS) {
            Ok(ours) => Some(ours),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(error.into()),
        };
        if let Some(ours) = &ours {
            check_format(ours)?;
        }
        Ok(Layout {
            root,
            ours,
            writable: false,
        })
    }
}

/// Makes the directory, private to its owner, where it is absent.
fn make_path(path: &Path) -> Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    if path.is_dir() {
        return Ok(());
    }
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)?;
    // The new name is in the parent; what is above was there, or is as durable as its makers.
    match path.canonicalize()?.parent() {
        Some(parent) => Ok(Dir::open(parent)?.sync()?),
        None => Ok(()),
    }
}

/// `.cas/`, made only in a directory that is empty or a layout; nothing where it is read-only.
fn open_ours(root: &Dir) -> Result<Option<Dir>> {
    if root.stat(OURS)?.is_none()
        && root.stat(MARK)?.is_none()
        && let Some(stranger) = root.entries()?.next().transpose()?
        // Whoever else makes a layout here right now began with this.
        && root.stat(OURS)?.is_none()
    {
        return Err(Error::precondition(format!(
            "it is not empty (there is {:?}) and no OCI image layout (there is no {MARK}); \
             choose another directory",
            stranger.name
        )));
    }
    match root.make_dir(OURS, 0o700) {
        Ok(ours) => Ok(Some(ours)),
        Err(error) if cannot_write(&error) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Brings what a layout needs and is not there; the file that makes it ours comes last.
fn complete(root: &Dir, ours: &Dir) -> Result<()> {
    let blobs = root.make_dir("blobs", 0o755)?;
    blobs.make_dir("sha256", 0o755)?;
    ours.make_dir("ingest", 0o700)?;
    if root.stat(INDEX)?.is_none() {
        let empty = serde_json::json!({
            "schemaVersion": 2,
            "mediaType": cas_core::MediaType::OCI_INDEX,
            "manifests": [],
        });
        root.replace(INDEX, &text(&empty)?, 0o644, (ours, "index.new"))?;
    }
    if root.stat(MARK)?.is_none() {
        let mark = Mark {
            image_layout_version: LAYOUT_VERSION.to_owned(),
        };
        root.replace(MARK, &text(&mark)?, 0o644, (ours, "mark.new"))?;
    }
    // What is there may have been made by someone who was killed before he synced its name.
    blobs.sync()?;
    root.sync()?;
    let format = Format {
        kind: KIND.to_owned(),
        version: VERSION,
    };
    Ok(ours.replace(FORMAT, &text(&format)?, 0o600, (ours, "format.new"))?)
}

/// Whether the store says what it is; an error when it is not what this code reads.
fn check_format(ours: &Dir) -> Result<bool> {
    let Some(data) = ours.read(FORMAT, SMALL)? else {
        return Ok(false);
    };
    let format: Format = serde_json::from_slice(&data).map_err(|error| {
        Error::corrupt(format!("{OURS}/{FORMAT} does not parse: {error}")).source(error)
    })?;
    match (format.kind.as_str(), format.version) {
        (KIND, VERSION) => Ok(true),
        (KIND, newer) => Err(Error::precondition(format!(
            "expected format {VERSION}, found {newer}; use the release that wrote it"
        ))),
        (other, _) => Err(Error::precondition(format!(
            "expected a store of kind {KIND}, found {other:.40}; open it as {other:.40}://"
        ))),
    }
}

fn check_mark(root: &Dir) -> Result<()> {
    let data = root
        .read(MARK, SMALL)?
        .ok_or_else(|| Error::precondition(format!("no OCI image layout: there is no {MARK}")))?;
    let mark: Mark = serde_json::from_slice(&data)
        .map_err(|error| Error::corrupt(format!("{MARK} does not parse: {error}")).source(error))?;
    match mark.image_layout_version.starts_with("1.") {
        true => Ok(()),
        false => Err(Error::precondition(format!(
            "expected an image layout of version 1, found {:.40}",
            mark.image_layout_version
        ))),
    }
}

pub(crate) fn cannot_write(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ReadOnlyFilesystem | io::ErrorKind::PermissionDenied
    )
}

fn text(value: &impl Serialize) -> Result<Vec<u8>> {
    serde_json::to_vec(value)
        .map_err(|error| Error::internal("a small document does not serialise").source(error))
}
