//! Opens the directory of a `dir:` store. Finds and repairs three kinds of damage: something else
//! in the place of a file or a folder of the store, a lost or damaged file `format`, and lost
//! folders of records.

use std::fs::File;
use std::io::{self, ErrorKind, Read};
use std::path::Path;

use cas_core::check::{Finding, Problem};
use cas_core::records::Table;
use cas_core::{Context, Error, Result, limit};
use cas_host::calls::undisturbed;
use cas_host::{Dir, Misplaced, NewFile, Place, if_directory};

use crate::folder::{Folder, LOCK, RESERVE, TEMP_DIR, set_aside, subfolders, table_folder};
use crate::format::{self, Format};

/// The places in the directory of a store.
const PLACES: [Place<'static>; 7] = [
    Place::File(LOCK),
    Place::File(format::PATH),
    Place::File(RESERVE),
    Place::Directory("blobs"),
    Place::Directory("records"),
    Place::Directory("uploads"),
    Place::Directory(TEMP_DIR),
];

/// Locks the directory `root`, which is created if it does not exist, and makes its folders.
/// Returns the directory, and the format of its store, or `None` if it has no file `format`.
///
/// # Errors
/// Errors of [`Folder::claim`]; `FailedPrecondition` if the file `format` is of another kind or a
/// newer version, or if it does not parse and the directory has no objects of a store; `Corrupt` if
/// the store has lost its file `format` or a folder of records, if the file does not parse, or if
/// something else is in the place of a file or a folder; errors of the file system.
pub(crate) fn open(root: &Path) -> Result<(Folder, Option<Format>)> {
    let mut misplaced = misplaced(root)?.into_iter();
    // The store works without the reserve.
    if let Some((path, what)) = misplaced.find(|(path, _)| path != RESERVE) {
        return Err(what.error(&root.join(path)));
    }
    let folder = Folder::claim(root)?;
    let body = read_format(root)?;
    let damage = format_damage(root, body.as_deref())?;
    if let Some(damage) = damage
        && has_objects(root)?
    {
        return Err(format::damaged(damage));
    }
    let format = body.as_deref().map(format::parse).transpose()?;
    // A new folder in the place of a lost folder would hide the loss.
    if let Some(lost) = lost_folders(root, format.as_ref())?.first() {
        return Err(Error::corrupt("the folder of records is missing")
            .advice("run `cas fsck --repair`")
            .subject(lost));
    }
    folder.prepare()?;
    Ok((folder, format))
}

/// Checks the places, the file `format` and the folders of records of the store in the directory
/// `root`. Returns what was found. A repair sets aside what is misplaced and a damaged file
/// `format`, and makes what is missing. Finds nothing in a directory that does not have objects of
/// a store. Without a repair, returns nothing else if something is misplaced.
///
/// # Errors
/// Errors of [`Folder::claim`] if something must be repaired; errors of the file system.
pub(crate) fn examine(root: &Path, repair: bool) -> Result<Vec<Finding>> {
    let mut findings = examine_places(root, repair)?;
    if findings.iter().any(|finding| !finding.repaired) {
        return Ok(findings);
    }
    let body = read_format(root)?;
    let parsed = body.as_deref().map(format::parse);
    let mut format = parsed.and_then(Result::ok);
    if let Some(damage) = format_damage(root, body.as_deref())? {
        if repair {
            let made = Format::single();
            let _lock = Folder::claim(root)?;
            Dir::open(root)?.set_aside(format::PATH)?;
            let new = NewFile::begin(&root.join(format::PATH))?;
            std::io::Write::write_all(&mut new.file(), &made.body()?)?;
            new.publish()?;
            format = Some(made);
        }
        findings.push(format::finding(damage, repair));
    }
    let lost = lost_folders(root, format.as_ref())?;
    if repair && !lost.is_empty() {
        Folder::claim(root)?.create_subfolders()?;
    }
    findings.extend(lost.into_iter().map(|folder| Finding {
        problem: Problem::DatabaseDamaged,
        subject: folder,
        detail: format!(
            "the folder of records is missing, and its records are lost; {}",
            match repair {
                true => "an empty folder was made",
                false => "a repair makes an empty folder, and makes the records of blobs again",
            }
        ),
        repaired: repair,
    }));
    Ok(findings)
}

/// Returns a finding for each misplaced entry. A repair sets these entries aside. Later steps make
/// what is needed in their places.
fn examine_places(root: &Path, repair: bool) -> Result<Vec<Finding>> {
    let found = misplaced(root)?;
    let mut asides = Vec::new();
    if repair && !found.is_empty() {
        let (lock, others): (Vec<_>, Vec<_>) = found.iter().partition(|(path, _)| path == LOCK);
        for (path, _) in lock {
            asides.push(set_aside(root, path)?);
        }
        let _lock = Folder::claim(root)?;
        for (path, _) in others {
            asides.push(set_aside(root, path)?);
        }
    }
    let mut asides = asides.into_iter();
    let finding = |(path, what): (String, Misplaced)| Finding {
        problem: Problem::StoreDamaged,
        subject: path,
        detail: match asides.next().flatten() {
            Some(aside) => format!("{what}; it was renamed to {aside}"),
            None => format!("{what}; a repair renames it"),
        },
        repaired: repair,
    };
    Ok(found.into_iter().map(finding).collect())
}

/// Returns the paths in the store at which something else is in the place of a file or a folder,
/// and what was found there. The lock comes first. Returns none in a directory that is not a store.
fn misplaced(root: &Path) -> io::Result<Vec<(String, Misplaced)>> {
    let mut found = Vec::new();
    let Some(dir) = if_directory(Dir::open(root))? else {
        return Ok(found);
    };
    if dir.stat(format::PATH)?.is_none() && dir.stat("records")?.is_none() {
        return Ok(found);
    }
    for place in PLACES {
        let what = place.misplaced(&dir)?;
        found.extend(what.map(|what| (place.name().to_owned(), what)));
    }
    for path in subfolders() {
        let (parent, name) = path.split_once('/').unwrap_or((".", &path));
        let Some(parent) = if_directory(dir.open_dir(parent))? else {
            continue;
        };
        if let Some(what) = Place::Directory(name).misplaced(&parent)? {
            found.push((path, what));
        }
    }
    Ok(found)
}

/// Returns the folders of records that do not exist. Every store of the current format has them.
/// Returns none if the store has no format or an older one.
fn lost_folders(root: &Path, format: Option<&Format>) -> Result<Vec<String>> {
    let mut lost = Vec::new();
    if format.is_some_and(Format::is_current) {
        for folder in Table::ALL.map(table_folder) {
            if !root.join(&folder).try_exists()? {
                lost.push(folder);
            }
        }
    }
    Ok(lost)
}

/// Returns the bytes of the file `format`, or `None` if it does not exist. Of a file that is too
/// large to be a format, returns only the first bytes, but more than a format may have.
fn read_format(root: &Path) -> Result<Option<Vec<u8>>> {
    let path = root.join(format::PATH);
    let mut body = Vec::new();
    let mut read = || {
        let file = undisturbed(|| File::open(&path))?;
        file.take(limit::LAYOUT_FILE + 1).read_to_end(&mut body)
    };
    match read() {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        read => read.map(|_| Some(body)).during("read", path.display()),
    }
}

/// Returns what is wrong with the file `format`: it is missing although the directory has objects
/// of a store, or it is not JSON of the right form.
fn format_damage(root: &Path, body: Option<&[u8]>) -> Result<Option<&'static str>> {
    let is_damaged = match body {
        Some(body) => !format::is_format(body),
        None => has_objects(root)?,
    };
    Ok(is_damaged.then(|| format::damage(body.is_some())))
}

/// Returns whether the folders of blobs or of records have files.
fn has_objects(root: &Path) -> Result<bool> {
    for parent in ["blobs", "records"] {
        let Ok(folders) = std::fs::read_dir(root.join(parent)) else {
            continue;
        };
        for folder in folders {
            let folder = folder?;
            let is_dir = folder.file_type()?.is_dir();
            if is_dir && std::fs::read_dir(folder.path())?.next().is_some() {
                return Ok(true);
            }
        }
    }
    Ok(false)
}
