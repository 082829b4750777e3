//! The files of a database, and checks of their types.

use std::path::Path;

use cas_core::{Error, Result};
use cas_host::{Dir, Misplaced, Place};

/// Returns the directory and the name of the database at `path`.
///
/// # Errors
/// `InvalidArgument` if `path` does not have both, or if the name is not UTF-8.
pub(crate) fn split(path: &Path) -> Result<(&Path, &str)> {
    let name = path.file_name().and_then(|name| name.to_str());
    let parent = path.parent().filter(|parent| *parent != Path::new(""));
    parent.zip(name).ok_or_else(|| {
        Error::invalid("not the path of a file; expected DIR/NAME, with NAME in UTF-8")
    })
}

/// Returns the name of the lock of the database `name`.
pub(crate) fn lock(name: &str) -> String {
    format!("{name}.lock")
}

/// Returns the name of the log of the database `name`. The log has the last changes.
pub(crate) fn log(name: &str) -> String {
    format!("{name}-wal")
}

/// Returns the name of the index of the log. SQLite can make it again from the log.
pub(crate) fn log_index(name: &str) -> String {
    format!("{name}-shm")
}

/// Checks that nothing else, such as a directory, is in the place of a file of the database. SQLite
/// would only report that it cannot open the file.
///
/// # Errors
/// `Corrupt` if something else is in the place of a file; errors of the file system.
pub(crate) fn refuse_misplaced(dir: &Dir, name: &str) -> Result<()> {
    let refused = |what: Misplaced, file: &str| {
        let advice = "run `cas fsck --repair`, which sets it aside";
        Err(Error::corrupt(format!("{what} at {file}; {advice}")))
    };
    if let Some(what) = database(dir, name)? {
        return refused(what, name);
    }
    for file in [log(name), log_index(name), lock(name)] {
        if let Some(what) = Place::File(&file).misplaced(dir)? {
            return refused(what, &file);
        }
    }
    Ok(())
}

/// Checks that the database is a file or absent. If it is something else, returns the type that was
/// expected and the type that was found. A user may have moved the database elsewhere and left a
/// symbolic link, so only the target of a link counts. A link without a target is not a file.
pub(crate) fn database(dir: &Dir, name: &str) -> Result<Option<Misplaced>> {
    Ok(Place::MovableFile(name).misplaced(dir)?)
}
