//! Examines a database, and sets a damaged database aside.

use std::io;
use std::path::{Path, PathBuf};

use cas_core::check::{Finding, Problem};
use cas_core::{Context, Error, ErrorKind, Result};
use cas_host::{Dir, Lock};
use rusqlite::{Connection, OpenFlags};

use crate::connection::DIRECTORY;
use crate::error::classify;

/// The result of `quick_check` for a database that is not damaged.
const SOUND: &str = "ok";

/// Examines the database at `path`. If the database is damaged and `repair` is set, renames the
/// database and its log. The new name of the database ends in `.damaged-` and a number. The next
/// opening then creates an empty database. Returns a finding if the database is damaged. Returns
/// `None` if it is intact or absent, if it cannot be opened for lack of permission, or if another
/// process set it aside in the meantime.
///
/// # Errors
/// Errors of the file system and of SQLite, except errors that only report the damage of the
/// database.
pub fn examine(path: &Path, repair: bool) -> Result<Option<Finding>> {
    let why = match path.try_exists().during("examine", path.display())? {
        true => damage(path)?,
        false => None,
    };
    let Some(why) = why else {
        return Ok(None);
    };
    let detail = if repair {
        let Some(aside) = set_aside(path).during("set aside", path.display())? else {
            return Ok(None);
        };
        format!(
            "{why}; the database was renamed to {}; the next opening creates an empty database",
            aside.display()
        )
    } else {
        format!("{why}; a repair renames the database and makes the records again")
    };
    Ok(Some(Finding {
        problem: Problem::StoreDamaged,
        subject: path.display().to_string(),
        detail,
        repaired: repair,
    }))
}

/// Returns a description of the damage, or `None` if the database is intact.
fn damage(path: &Path) -> Result<Option<String>> {
    if path.is_dir() {
        return Ok(Some(DIRECTORY.to_owned()));
    }
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let check = || -> rusqlite::Result<String> {
        let connection = Connection::open_with_flags(path, flags)?;
        connection.query_row("PRAGMA quick_check(1)", (), |row| row.get(0))
    };
    match check().map_err(classify) {
        Ok(text) if text == SOUND => Ok(None),
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == ErrorKind::Corrupt => {
            Ok(Some("it is not an intact database".to_owned()))
        }
        // Such a database cannot be repaired, and opening the store reports why.
        Err(error) if error.kind() == ErrorKind::Denied => Ok(None),
        Err(error) => Err(error),
    }
}

/// Renames the database and its log. Returns the new name of the database, or `None` if another
/// process has set it aside since.
fn set_aside(path: &Path) -> Result<Option<PathBuf>> {
    let (Some(parent), Some(name)) = (
        path.parent(),
        path.file_name().and_then(|name| name.to_str()),
    ) else {
        return Err(Error::invalid("not the path of a file; expected DIR/NAME"));
    };
    let dir = Dir::open(parent)?;
    let _lock = Lock::exclusive(&dir, &format!("{name}.lock"))?;
    if dir.stat(name)?.is_some() && damage(path)?.is_none() {
        return Ok(None);
    }
    let Some(aside) = dir.set_aside(name)? else {
        return Ok(None);
    };
    for ending in ["-wal", "-shm"] {
        let (from, to) = (format!("{name}{ending}"), format!("{aside}{ending}"));
        match dir.rename(&*from, &dir, &*to) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            renamed => renamed?,
        }
    }
    dir.sync()?;
    Ok(Some(parent.join(aside)))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::SqliteRecords;

    #[test]
    fn a_sound_database_stays_and_a_damaged_one_is_set_aside() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("records.db");
        assert_eq!(examine(&path, true).unwrap(), None, "there is none");
        drop(SqliteRecords::open(&path).unwrap());
        assert_eq!(examine(&path, true).unwrap(), None);
        for (number, garbage) in [
            vec![7; 100],
            vec![0; 8192],
            b"SQLite format 3\0xxxx".to_vec(),
        ]
        .into_iter()
        .enumerate()
        {
            assert_eq!(set_aside(&path).unwrap(), None, "another process made it");
            fs::write(&path, &garbage).unwrap();
            let found = examine(&path, false).unwrap();
            let found = found.unwrap_or_else(|| panic!("garbage {number} was not found"));
            assert!(!found.repaired, "{found:?}");
            assert_eq!(fs::read(&path).unwrap(), garbage, "only examined");
            assert!(examine(&path, true).unwrap().unwrap().repaired);
            let aside = temp
                .path()
                .join(format!("records.db.damaged-{}", number + 1));
            assert_eq!(fs::read(aside).unwrap(), garbage);
            drop(SqliteRecords::open(&path).unwrap());
            assert_eq!(examine(&path, true).unwrap(), None);
        }
    }

    #[test]
    fn a_directory_is_refused_and_set_aside_with_what_is_in_it() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("records.db");
        fs::create_dir_all(path.join("theirs")).unwrap();
        for open in [SqliteRecords::open, SqliteRecords::open_read_only] {
            let error = open(&path).err().unwrap();
            assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
            let said = error.to_string();
            assert!(said.contains(path.to_str().unwrap()), "{said}");
            assert!(said.contains("fsck --repair"), "{said}");
        }
        assert!(!examine(&path, false).unwrap().unwrap().repaired);
        assert!(path.join("theirs").exists(), "only examined");
        assert!(examine(&path, true).unwrap().unwrap().repaired);
        assert!(temp.path().join("records.db.damaged-1/theirs").exists());
        drop(SqliteRecords::open(&path).unwrap());
        assert_eq!(examine(&path, true).unwrap(), None);
    }
}
