//! Finds and repairs two kinds of damage of a `dir:` store: a lost or damaged file `format`, and
//! lost folders of records.

use std::path::Path;

use cas_core::check::{Finding, Problem};
use cas_core::records::Table;
use cas_core::{Context, Error, Result};
use cas_host::{Dir, NewFile};

use crate::folder::{Folder, table_folder};
use crate::format::{self, Format};

/// Checks that the store has lost no folder of records. A new folder in its place would hide the
/// loss.
///
/// # Errors
/// `Corrupt` if a folder is missing; errors of the file system.
pub(crate) fn refuse_lost_folders(root: &Path) -> Result<()> {
    match lost_folders(root)?.first() {
        None => Ok(()),
        Some(folder) => Err(Error::corrupt(
            "the folder of records is missing; run `cas fsck --repair`",
        )
        .subject(folder)),
    }
}

/// Checks the file `format` and the folders of records of the store in the directory `root`.
/// Returns what was found. A repair sets a damaged file `format` aside, and makes what is missing.
/// Finds nothing in a directory that does not have objects of a store.
///
/// # Errors
/// As [`RemoteStore::open_dir`](crate::RemoteStore::open_dir) if something must be repaired; errors
/// of the file system.
pub(crate) fn examine(root: &Path, repair: bool) -> Result<Vec<Finding>> {
    let mut findings = Vec::new();
    if let Some(what) = format_damage(root)? {
        if repair {
            let _lock = Folder::claim(root)?;
            Dir::open(root)?.set_aside(format::PATH)?;
            let new = NewFile::begin(&root.join(format::PATH))?;
            std::io::Write::write_all(&mut new.file(), &Format::single().body()?)?;
            new.publish()?;
        }
        findings.push(Finding {
            problem: Problem::StoreDamaged,
            subject: format::PATH.to_owned(),
            detail: format!(
                "the file {what}; {}",
                match repair {
                    true => {
                        "it was made again (a repair renames a damaged file to \
                         `format.damaged-NUMBER`)"
                    }
                    false => "a repair makes it again",
                }
            ),
            repaired: repair,
        });
    }
    let lost = lost_folders(root)?;
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

/// Returns the folders of records that do not exist. Every store of the current format has them.
/// Returns none if the directory has no file `format`, or that of an older or a newer format.
fn lost_folders(root: &Path) -> Result<Vec<String>> {
    match std::fs::read(root.join(format::PATH)) {
        Ok(body) if format::parse(&body).is_ok_and(|format| format.is_current()) => {}
        _ => return Ok(Vec::new()),
    }
    let mut lost = Vec::new();
    for folder in Table::ALL.map(table_folder) {
        if !root.join(&folder).try_exists()? {
            lost.push(folder);
        }
    }
    Ok(lost)
}

/// Returns what is wrong with the file `format`: it is missing although the directory has objects
/// of a store, or it is not JSON of the right form.
fn format_damage(root: &Path) -> Result<Option<&'static str>> {
    let path = root.join(format::PATH);
    match std::fs::read(&path) {
        Ok(body) => Ok((!format::is_format(&body)).then_some("does not parse")),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            Ok(has_objects(root)?.then_some("is missing"))
        }
        Err(error) => Err(error).during("read", path.display()),
    }
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
