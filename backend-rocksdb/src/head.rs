//! A copy of the two files that lead to the tables: `CURRENT`, and the manifest that it names.
//!
//! The copy is made when the database is closed. If one of the files is damaged or lost later, a
//! repair puts the copy in its place. If a kill or a compaction came in between, the manifest may
//! name files that are gone; RocksDB then reads the others.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use cas_kv::HEAD;

/// The file that names the manifest.
const CURRENT: &str = "CURRENT";
/// How the name of every manifest begins.
const MANIFEST: &str = "MANIFEST-";

/// Copies the files of a database that is about to be closed.
///
/// # Errors
/// Errors of the file system. The earlier copy may then be gone.
pub(crate) fn save(database: &Path) -> io::Result<()> {
    let copy = directory(database);
    match DirBuilder::new().mode(0o700).create(&copy) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    let manifest = manifest_of(database)?;
    for entry in fs::read_dir(&copy)? {
        fs::remove_file(entry?.path())?;
    }
    fs::copy(database.join(&manifest), copy.join(&manifest))?;
    fs::copy(database.join(CURRENT), copy.join(CURRENT)).map(|_| ())
}

/// Puts the copies in place of the files of the database, which get names that end in `.damaged`.
///
/// # Errors
/// `NotFound` if the copy is missing; errors of the file system.
pub(crate) fn restore(database: &Path) -> io::Result<()> {
    let copy = directory(database);
    for name in [manifest_of(&copy)?, CURRENT.to_owned()] {
        let file = database.join(&name);
        match fs::rename(&file, database.join(format!("{name}.damaged"))) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        fs::copy(copy.join(&name), file)?;
    }
    Ok(())
}

fn directory(database: &Path) -> PathBuf {
    let mut path = database.as_os_str().to_owned();
    path.push(HEAD);
    path.into()
}

/// Returns the name of the manifest that `CURRENT` names.
fn manifest_of(directory: &Path) -> io::Result<String> {
    let current = fs::read_to_string(directory.join(CURRENT))?;
    let name = current.trim_end();
    let is_number = |rest: &str| rest.bytes().all(|byte| byte.is_ascii_digit());
    match name.strip_prefix(MANIFEST) {
        Some(rest) if is_number(rest) => Ok(name.to_owned()),
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}
