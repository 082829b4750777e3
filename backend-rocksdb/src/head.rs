//! A copy of the manifest. The manifest is RocksDB's list of the files of the database. The file
//! `CURRENT` contains the name of the manifest. The first line of the copy contains this name, too.
//!
//! The copy is made when a database that was open for writing is closed, but not when the process
//! is killed. If the manifest is damaged or lost later, a repair opens the database with the copy.
//! The copy may name files that a later compaction has deleted. RocksDB then reads only the files
//! that exist.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};

use cas_kv::Head;

/// The file that names the manifest.
const CURRENT: &str = "CURRENT";
/// The prefix of the name of every manifest. A number follows.
const MANIFEST: &str = "MANIFEST-";
/// Maximum length of the first line in bytes.
const LINE_MAX: u64 = 64;

/// Copies the manifest of a database when this value is dropped. The database must be closed
/// before. Ignores errors, because only a repair needs the copy.
pub(crate) struct SavedHead(pub(crate) PathBuf);

impl Drop for SavedHead {
    fn drop(&mut self) {
        let _ = save(&self.0);
    }
}

fn save(database: &Path) -> io::Result<()> {
    let current = fs::read_to_string(database.join(CURRENT))?;
    let name = manifest(&current)?;
    let mut manifest = File::open(database.join(name))?;
    Head::of(database).save(|copy| {
        writeln!(copy, "{name}")?;
        io::copy(&mut manifest, copy).map(drop)
    })
}

/// Puts the copy of the manifest of `database` into the directory `to`, and makes it the current
/// manifest there. Returns false if no copy exists, or if its first line does not name a
/// manifest.
///
/// # Errors
/// Errors of the file system.
pub(crate) fn restore(database: &Path, to: &Path) -> io::Result<bool> {
    let Some(copy) = Head::of(database).open()? else {
        return Ok(false);
    };
    let (mut copy, mut line) = (BufReader::new(copy), Vec::new());
    copy.by_ref().take(LINE_MAX).read_until(b'\n', &mut line)?;
    let Ok(name) = manifest(&String::from_utf8_lossy(&line)).map(str::to_owned) else {
        return Ok(false);
    };
    io::copy(&mut copy, &mut File::create(to.join(&name))?)?;
    set_current(to, &name)?;
    Ok(true)
}

/// Makes the newest manifest in a directory the current manifest. Returns whether there is a
/// manifest.
///
/// # Errors
/// Errors of the file system.
pub(crate) fn set_newest(directory: &Path) -> io::Result<bool> {
    let mut newest = None;
    for entry in fs::read_dir(directory)? {
        let name = entry?.file_name();
        let number = name.to_str().and_then(number);
        newest = newest.max(number.map(|number| (number, name)));
    }
    match newest.as_ref().and_then(|(_, name)| name.to_str()) {
        Some(name) => set_current(directory, name).map(|()| true),
        None => Ok(false),
    }
}

fn set_current(directory: &Path, manifest: &str) -> io::Result<()> {
    fs::write(directory.join(CURRENT), format!("{manifest}\n"))
}

/// Returns the name in a line that names a manifest.
fn manifest(line: &str) -> io::Result<&str> {
    let name = line.trim_end();
    number(name)
        .map(|_| name)
        .ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// Returns the number of the manifest with this name.
fn number(name: &str) -> Option<u64> {
    let digits = name.strip_prefix(MANIFEST)?;
    let is_number = digits.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then(|| digits.parse().ok()).flatten()
}
