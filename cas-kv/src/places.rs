//! Finds entries that are in the place of a store's file but are not files, for example directories
//! or symbolic links. The database of the store must be one file.

use std::io;
use std::path::Path;

use cas_core::Result;
use cas_core::check::Finding;
use cas_host::{Dir, Place, if_directory};

use crate::head::Head;
use crate::owned_dir::{FileNames, OWNER};
use crate::space::RESERVE;

/// Checks that nothing else, such as a directory or a symbolic link, is in the place of the
/// database or of the file `owner` in the directory `path`. Checks nothing if there is nothing in
/// the place of the database, because the directory may then belong to another program.
///
/// # Errors
/// `Corrupt` if something else is in one of these places; errors of the file system.
pub fn check_places(path: &Path, names: FileNames) -> Result<()> {
    let Some(dir) = if_directory(Dir::open(path))? else {
        return Ok(());
    };
    if dir.stat(names.database)?.is_none() {
        return Ok(());
    }
    for name in [OWNER, names.database] {
        if let Some(what) = Place::File(name).misplaced(&dir)? {
            return Err(what.error(&path.join(name)));
        }
    }
    Ok(())
}

/// Checks the places of four files of a store: the database, its [`Head`], `owner` and `reserve`.
/// Returns a finding for each place that has something other than a file. If `repair` is set,
/// renames what is there. A database that is set aside like this counts as lost. Returns no
/// findings if there is nothing in the places of the database and its head, because the directory
/// may then belong to another program.
///
/// # Errors
/// Errors of the file system.
pub fn examine_places(path: &Path, names: FileNames, repair: bool) -> io::Result<Vec<Finding>> {
    let mut findings = Vec::new();
    let Some(dir) = if_directory(Dir::open(path))? else {
        return Ok(findings);
    };
    let head = Head::of(Path::new(names.database));
    let head = head.path().to_string_lossy();
    if dir.stat(names.database)?.is_none() && dir.stat(&*head)?.is_none() {
        return Ok(findings);
    }
    for name in [OWNER, names.database, &*head, RESERVE] {
        let subject = path.join(name);
        findings.extend(Place::File(name).examine(&dir, &subject.to_string_lossy(), repair)?);
    }
    Ok(findings)
}
