//! The directory of a store: an OCI image layout with the private directory `.cas/`.

use std::fmt::Display;
use std::io;
use std::path::Path;

use cas_core::layout::{INDEX, ImageLayout, OCI_LAYOUT};
use cas_core::{Error, ErrorKind, Result, limit};
use cas_host::{Dir, Lock, Place, cannot_write, find_foreign, if_directory, make_private_dir};
use cas_records_sqlite::SqliteRecords;
use serde::{Deserialize, Serialize};

use crate::places::{BLOBS, CAS_DIR};
use crate::{file, index_file};

/// The database of records, in the private directory.
pub(crate) const RECORDS: &str = "records.db";
/// The file with the kind and the version of the store, in the private directory.
pub(crate) const FORMAT: &str = "format.json";
/// The kind of every store of this crate.
const KIND: &str = "fs";
/// The format that this release writes. A store of format 1 has no records of the table `notes`.
///
/// The database of records has the same number. An upgrade changes the number in the database
/// first, so the database never has a lower number than `format.json`. If `format.json` is
/// damaged, a repair therefore uses the number of the database.
const VERSION: u32 = cas_records_sqlite::VERSION;

/// The open directories of a store.
pub(crate) struct Layout {
    /// The layout itself.
    pub(crate) root: Dir,
    /// `.cas/`, or `None` for a read-only image layout of another program.
    pub(crate) cas_dir: Option<Dir>,
    /// Whether the store can be written to.
    pub(crate) writable: bool,
}

/// The document `format.json`.
#[derive(Serialize, Deserialize)]
struct Format {
    kind: String,
    version: u32,
}

impl Layout {
    /// Opens the layout at `path`. Creates the layout if the directory is absent or empty.
    /// Completes a layout whose creation was interrupted, upgrades an older format, and adds
    /// `.cas/` to a layout of another program. Opens it read-only if the process cannot write to
    /// it.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        make_private_dir(path)?;
        let root = Dir::open(path)?;
        if root.stat(OCI_LAYOUT)?.is_some() {
            // A layout that is rejected must stay unchanged, so this check comes first.
            check_oci_layout(&root)?;
        }
        let Some(cas_dir) = open_cas_dir(&root)? else {
            return Self::read_only(root);
        };
        // The format file is written last. If it is absent, every step of the creation runs again.
        let lock = match lock_layout(&cas_dir) {
            Err(error) if cannot_write(&error) => return Self::read_only(root),
            lock => lock?,
        };
        match version(&cas_dir)? {
            Some(VERSION) => {}
            // Formats 1 and 2 differ only in the database of records, which is upgraded when it is
            // opened. A kill before `format.json` is written leaves the newer number only in the
            // database: see `VERSION`.
            Some(_) => {
                drop(SqliteRecords::open(&path.join(CAS_DIR).join(RECORDS))?);
                write_format(&cas_dir, VERSION)?;
            }
            None => {
                refuse_newer(path)?;
                complete(&root, &cas_dir)?;
            }
        }
        check_oci_layout(&root)?;
        drop(lock);
        Ok(Layout {
            root,
            cas_dir: Some(cas_dir),
            writable: true,
        })
    }

    /// Opens the layout in `root` for reading.
    pub(crate) fn read_only(root: Dir) -> Result<Self> {
        check_oci_layout(&root)?;
        let cas_dir = match root.open_dir(CAS_DIR) {
            Ok(cas_dir) => Some(cas_dir),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(error.into()),
        };
        if let Some(cas_dir) = &cas_dir {
            version(cas_dir)?;
        }
        Ok(Layout {
            root,
            cas_dir,
            writable: false,
        })
    }
}

/// Waits for the lock of the layout and takes it. The caller holds the lock while it creates,
/// checks, upgrades or repairs the layout.
fn lock_layout(cas_dir: &Dir) -> io::Result<Lock> {
    Lock::exclusive(cas_dir, "lock")
}

/// Waits while another process creates the layout. Returns false if no process has created it yet,
/// or if the creation was interrupted before it made `index.json`. Such a layout has no content.
pub(crate) fn is_created(root: &Dir) -> io::Result<bool> {
    let Ok(cas_dir) = root.open_dir(CAS_DIR) else {
        return Ok(true);
    };
    if cas_dir.stat(FORMAT)?.is_some() {
        return Ok(true);
    }
    // On a read-only file system, the lock fails, and no process creates a layout.
    let _lock = lock_layout(&cas_dir);
    for (dir, name) in [(&cas_dir, FORMAT), (&cas_dir, RECORDS), (root, INDEX)] {
        if dir.stat(name)?.is_some() {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Opens `.cas/`. If it is absent, first creates it, but only in an empty directory or a layout.
/// Returns `None` if it can be neither opened nor created, because the file system is read-only or
/// permission is missing.
fn open_cas_dir(root: &Dir) -> Result<Option<Dir>> {
    if root.stat(CAS_DIR)?.is_none()
        && root.stat(OCI_LAYOUT)?.is_none()
        && let Some(foreign) = find_foreign(root, |_| false)?
        // A process that creates a layout creates `.cas/` first, so look for `.cas/` again.
        && root.stat(CAS_DIR)?.is_none()
    {
        return Err(Error::precondition(format!(
            "the directory is not empty (it contains {foreign:?}) and is not an OCI image layout \
             (it does not contain {OCI_LAYOUT}); choose another directory"
        )));
    }
    match root.make_dir(CAS_DIR, 0o700) {
        Ok(cas_dir) => Ok(Some(cas_dir)),
        Err(error) if cannot_write(&error) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Creates everything that is missing. The format file comes last.
fn complete(root: &Dir, cas_dir: &Dir) -> Result<()> {
    let blobs = root.make_dir(BLOBS, 0o755)?;
    blobs.make_dir("sha256", 0o755)?;
    cas_dir.make_dir("ingest", 0o700)?;
    index_file::create((root, cas_dir))?;
    if root.stat(OCI_LAYOUT)?.is_none() {
        write_oci_layout(root, cas_dir)?;
    }
    // A process that created some of the names may have died before it synced them.
    blobs.sync()?;
    root.sync()?;
    write_format(cas_dir, VERSION)
}

/// Checks a store that has no format file. Returns an error if the database of records has a newer
/// format. Such a store has lost the file, because a creation writes the file before the database.
pub(crate) fn refuse_newer(path: &Path) -> Result<()> {
    match cas_records_sqlite::stored_version(&path.join(CAS_DIR).join(RECORDS)) {
        Ok(Some(found)) if found > VERSION.into() => Err(Error::newer_format(VERSION, found)),
        // Opening the records reports their damage.
        Ok(_) | Err(_) => Ok(()),
    }
}

/// Writes a damaged format file again, with the number in the database of records. Returns true if
/// the file was written or is intact. Returns false if [`recorded_version`] returns `None`.
pub(crate) fn repair_format(path: &Path, cas_dir: &Dir) -> Result<bool> {
    let _lock = lock_layout(cas_dir)?;
    // Another process may have repaired it since.
    if version(cas_dir).is_ok() {
        return Ok(true);
    }
    let Some(version) = recorded_version(path) else {
        return Ok(false);
    };
    Place::File(FORMAT).clear(cas_dir)?;
    write_format(cas_dir, version)?;
    Ok(true)
}

/// Returns the number of the store's format from the database of records. Returns `None` if the
/// database does not have the number or cannot be read, or if the format is newer than [`VERSION`].
pub(crate) fn recorded_version(path: &Path) -> Option<u32> {
    let found = cas_records_sqlite::stored_version(&path.join(CAS_DIR).join(RECORDS)).ok()??;
    let found = u32::try_from(found).ok()?;
    (1..=VERSION).contains(&found).then_some(found)
}

/// Writes `oci-layout` if it is damaged or lost, unless another process has repaired it since. Sets
/// aside what is in its place. A kill leaves what was set aside, or the new file.
pub(crate) fn repair_oci_layout(root: &Dir, cas_dir: &Dir) -> Result<()> {
    let _lock = lock_layout(cas_dir)?;
    if check_oci_layout(root).is_ok() {
        return Ok(());
    }
    root.set_aside(OCI_LAYOUT)?;
    write_oci_layout(root, cas_dir)
}

/// Writes `oci-layout`. The caller holds the lock of the layout.
fn write_oci_layout(root: &Dir, cas_dir: &Dir) -> Result<()> {
    let layout = encode(&ImageLayout::default())?;
    Ok(root.replace(OCI_LAYOUT, &layout, 0o644, (cas_dir, "mark.new"))?)
}

fn write_format(cas_dir: &Dir, version: u32) -> Result<()> {
    let format = Format {
        kind: KIND.to_owned(),
        version,
    };
    Ok(cas_dir.replace(FORMAT, &encode(&format)?, 0o600, (cas_dir, "format.new"))?)
}

/// Returns the version in the format file, or `None` if the file is absent.
///
/// # Errors
/// `FailedPrecondition` for another kind or a newer version; `Corrupt` if the file does not parse,
/// is longer than [`limit::LAYOUT_FILE`], or is not a file; errors of the file system.
pub(crate) fn version(cas_dir: &Dir) -> Result<Option<u32>> {
    let read = file::read(cas_dir, FORMAT, limit::LAYOUT_FILE);
    let read = read.map_err(|error| match error.kind() {
        ErrorKind::Corrupt => damaged_format(error.without_advice()),
        _ if file::is_too_long(&error) => damaged_format(error.without_advice()),
        _ => error,
    });
    let Some(data) = read? else {
        return Ok(None);
    };
    let format: Format = serde_json::from_slice(&data).map_err(damaged_format)?;
    match (format.kind.as_str(), format.version) {
        (KIND, found) if found <= VERSION => Ok(Some(found)),
        (KIND, newer) => Err(Error::newer_format(VERSION, newer)),
        (other, _) => Err(Error::precondition(format!(
            "expected a store of kind {KIND}, found {other:.40}; open the store as {other:.40}://"
        ))),
    }
}

fn damaged_format(why: impl Display) -> Error {
    Error::corrupt(format!("{CAS_DIR}/{FORMAT} is damaged ({why})")).advice(
        "restore the file from a copy of the store, let `cas fsck --repair` make it again, or \
         choose another directory",
    )
}

/// Checks the file `oci-layout`.
///
/// # Errors
/// `Corrupt` if the file does not parse, is longer than [`limit::LAYOUT_FILE`], or is not a file,
/// or if a store of `cas` has no such file or one without a version; `FailedPrecondition` if the
/// layout of another program has no such file or is not of version 1, or if the layout is of a
/// newer version; errors of the file system.
pub(crate) fn check_oci_layout(root: &Dir) -> Result<()> {
    let read = file::read(root, OCI_LAYOUT, limit::LAYOUT_FILE);
    let read = read.map_err(|error| match file::is_too_long(&error) {
        true => damaged_layout(error.without_advice()),
        false => error,
    });
    let Some(data) = read? else {
        return Err(match root.stat(CAS_DIR)? {
            Some(_) => damaged_layout("it is missing"),
            None => Error::precondition(format!(
                "not an OCI image layout: the directory has no {OCI_LAYOUT}; choose another \
                 directory"
            )),
        });
    };
    let layout = ImageLayout::parse(&data).map_err(damaged_layout)?;
    let version = layout.image_layout_version;
    if version.starts_with("1.") {
        return Ok(());
    }
    let why = format!("expected an image layout of version 1, found {version:.40?}");
    let first = version.split('.').next().map(str::parse::<u64>);
    let is_newer = matches!(first, Some(Ok(2..)));
    Err(match (is_store(root)?, is_newer) {
        (true, false) => damaged_layout(why),
        (true, true) => Error::precondition(why).advice(format!(
            "if another program has converted the layout to this version, use that program; \
             otherwise, delete {OCI_LAYOUT} and run `cas fsck --repair`, which makes the file again"
        )),
        (false, _) => Error::precondition(why).advice("choose another directory"),
    })
}

/// Returns whether the directory is a store of a format that this release reads, even if its format
/// file is damaged.
fn is_store(root: &Dir) -> Result<bool> {
    let Some(cas_dir) = if_directory(root.open_dir(CAS_DIR))? else {
        return Ok(false);
    };
    match version(&cas_dir) {
        Ok(found) => Ok(found.is_some()),
        Err(error) => match error.kind() {
            ErrorKind::Corrupt => Ok(true),
            ErrorKind::FailedPrecondition => Ok(false),
            _ => Err(error),
        },
    }
}

fn damaged_layout(why: impl Display) -> Error {
    Error::corrupt(format!("{OCI_LAYOUT} is damaged ({why})")).advice(
        "restore the file, let `cas fsck --repair` make it again if this is a store of cas, or \
         choose another directory",
    )
}

/// Returns a document as JSON.
fn encode(value: &impl Serialize) -> Result<Vec<u8>> {
    serde_json::to_vec(value).map_err(|error| {
        Error::internal("cannot encode a document of the store; please report it").source(error)
    })
}
