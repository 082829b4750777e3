//! Examines a database, and sets a damaged database aside.

use std::io;
use std::path::{Path, PathBuf};

use cas_core::check::{Finding, Problem};
use cas_core::{Context, ErrorKind, Result};
use cas_host::{Dir, Lock, Place, calls};
use rusqlite::{Connection, OpenFlags};

use crate::connection::VERSION;
use crate::error::classify;
use crate::places;

/// The result of `quick_check` for a database that is not damaged.
const SOUND: &str = "ok";

/// The damage of a database that SQLite finds intact, but that lacks the tables of records.
const OTHER_TABLES: &str = "the database does not have the tables of records";

/// Examines the database at `path`, its log, the index of its log, and its lock. Returns a finding
/// if the database is damaged. Also returns a finding for each of the log, the index and the lock
/// that exists, but is not a regular file. If the log of an existing database is not a regular
/// file, the database counts as damaged, and the log has no finding of its own.
///
/// If `repair` is set, renames what has a finding: the new name ends in `.damaged-` and a number. A
/// damaged database is renamed with its log and the index of its log. The next opening then creates
/// an empty database.
///
/// The database has no finding if it is intact or absent, if this user may not open it, or if
/// another process renames it during the call. If something other than a regular file is in the
/// place of the index of the log, SQLite cannot open the database. Without `repair`, the index then
/// has a finding, but damage inside the database is not found. With `repair`, the index is renamed
/// before the database is examined.
///
/// # Errors
/// `InvalidArgument` if `path` does not name a file in a directory; errors of the file system and
/// of SQLite, except errors that only report the damage of the database.
pub fn examine(path: &Path, repair: bool) -> Result<Vec<Finding>> {
    let (parent, name) = places::split(path)?;
    if !calls::is_dir(parent) {
        return Ok(Vec::new());
    }
    let dir = Dir::open(parent).during("examine", parent.display())?;
    let examine = || -> Result<Vec<Finding>> {
        let mut findings = examine_files(&dir, parent, name, repair)?;
        findings.extend(examine_database(&dir, path, name, repair)?);
        Ok(findings)
    };
    examine().during("examine", path.display())
}

/// Examines the lock and the index of the log. If the database is absent, also examines the log,
/// which is then of no use. The log of an existing database is examined with the database.
fn examine_files(dir: &Dir, parent: &Path, name: &str, repair: bool) -> Result<Vec<Finding>> {
    let (lock, index, log) = (
        places::lock(name),
        places::log_index(name),
        places::log(name),
    );
    let has_database = dir.stat(name)?.is_some();
    let log = (!has_database).then_some(&log);
    let mut findings = Vec::new();
    for file in [&lock, &index].into_iter().chain(log) {
        let path = parent.join(file);
        findings.extend(Place::File(file).examine(dir, &path.to_string_lossy(), repair)?);
    }
    Ok(findings)
}

fn examine_database(dir: &Dir, path: &Path, name: &str, repair: bool) -> Result<Option<Finding>> {
    let Some(why) = damage(dir, path, name)? else {
        return Ok(None);
    };
    if !repair {
        let outcome = "a repair renames the database; the next opening creates an empty database";
        return Ok(Some(finding(path, &why, outcome, false)));
    }
    let aside = set_aside(dir, path, name)?;
    Ok(aside.map(|aside| {
        let outcome = format!(
            "the database was renamed to {}; the next opening creates an empty database",
            aside.display()
        );
        finding(path, &why, &outcome, true)
    }))
}

fn finding(path: &Path, why: &str, outcome: &str, repaired: bool) -> Finding {
    Finding {
        problem: Problem::StoreDamaged,
        subject: path.display().to_string(),
        detail: format!("{why}; {outcome}"),
        repaired,
    }
}

/// Returns how the database is damaged. Returns `None` if it is intact or absent, or if it cannot
/// be examined: for lack of permission, or because something else is in the place of the index of
/// its log.
fn damage(dir: &Dir, path: &Path, name: &str) -> Result<Option<String>> {
    if dir.stat(name)?.is_none() {
        return Ok(None);
    }
    if let Some(what) = places::database(dir, name)? {
        return Ok(Some(what.to_string()));
    }
    let log = places::log(name);
    if let Some(what) = Place::File(&log).misplaced(dir)? {
        // Without the last changes, the database may contradict itself and the blobs.
        return Ok(Some(format!(
            "the log {log}, which had the last changes of the database, is lost: {what}"
        )));
    }
    if Place::File(&places::log_index(name))
        .misplaced(dir)?
        .is_some()
    {
        // SQLite cannot open the database. A repair renames what is in the place of the index, and
        // then examines the database again.
        return Ok(None);
    }
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let check = || -> rusqlite::Result<String> {
        let connection = Connection::open_with_flags(path, flags)?;
        let found: String = connection.query_row("PRAGMA quick_check(1)", (), |row| row.get(0))?;
        // In one transaction, because another process may just create the tables.
        let now = connection.unchecked_transaction()?;
        match found == SOUND && !has_tables(&now)? {
            true => Ok(OTHER_TABLES.to_owned()),
            false => Ok(found),
        }
    };
    match check().map_err(classify) {
        Ok(text) if text == SOUND => Ok(None),
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == ErrorKind::Corrupt => {
            Ok(Some("the file is not an intact database".to_owned()))
        }
        // Such a database cannot be repaired, and opening the store reports why.
        Err(error) if error.kind() == ErrorKind::Denied => Ok(None),
        Err(error) => Err(error),
    }
}

/// Returns whether a database has the tables that its format number states, with their columns and
/// the row of the table `revisions`. A database without a format number gets the tables when it is
/// opened, so it must not have other tables with their names. Returns true for a newer format.
fn has_tables(connection: &Connection) -> rusqlite::Result<bool> {
    let number = |query: &str| connection.query_row(query, (), |row| row.get::<_, i64>(0));
    match number("PRAGMA user_version")? {
        0 => Ok(number(
            "SELECT count(*) FROM sqlite_schema WHERE name IN ('records', 'revisions')",
        )? == 0),
        version if (1..=VERSION.into()).contains(&version) => {
            let columns = number(
                "SELECT count(*) FROM pragma_table_info('records')
                 WHERE name IN ('kind', 'key', 'value', 'revision')",
            )?;
            let last =
                number("SELECT count(*) FROM pragma_table_info('revisions') WHERE name = 'last'")?;
            Ok(columns == 4 && last == 1 && number("SELECT count(*) FROM revisions")? > 0)
        }
        _ => Ok(true),
    }
}

/// Renames the database, its log and the index of its log. Returns the new name of the database, or
/// `None` if another process has set it aside since.
fn set_aside(dir: &Dir, path: &Path, name: &str) -> Result<Option<PathBuf>> {
    let _lock = Lock::exclusive(dir, &places::lock(name))?;
    if dir.stat(name)?.is_some() && damage(dir, path, name)?.is_none() {
        return Ok(None);
    }
    let Some(aside) = dir.set_aside(name)? else {
        return Ok(None);
    };
    for (from, to) in [
        (places::log(name), places::log(&aside)),
        (places::log_index(name), places::log_index(&aside)),
    ] {
        match dir.rename(&*from, dir, &*to) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            renamed => renamed?,
        }
    }
    dir.sync()?;
    Ok(Some(path.with_file_name(aside)))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use cas_core::records::{Batch, Expect, Table};

    use super::*;
    use crate::SqliteRecords;
    use crate::connection::stored_version;

    #[test]
    fn a_sound_database_stays_and_a_damaged_one_is_set_aside() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("records.db");
        let dir = Dir::open(temp.path()).unwrap();
        assert_eq!(examine(&path, true).unwrap(), [], "there is none");
        drop(SqliteRecords::open(&path).unwrap());
        assert_eq!(examine(&path, true).unwrap(), []);
        for (number, garbage) in [
            vec![7; 100],
            vec![0; 8192],
            b"SQLite format 3\0xxxx".to_vec(),
        ]
        .into_iter()
        .enumerate()
        {
            let again = set_aside(&dir, &path, "records.db").unwrap();
            assert_eq!(again, None, "another process made it");
            fs::write(&path, &garbage).unwrap();
            let found = examine(&path, false).unwrap();
            assert_eq!(found.len(), 1, "garbage {number}: {found:?}");
            assert!(!found[0].repaired, "{found:?}");
            assert_eq!(fs::read(&path).unwrap(), garbage, "only examined");
            assert!(examine(&path, true).unwrap()[0].repaired);
            let aside = temp
                .path()
                .join(format!("records.db.damaged-{}", number + 1));
            assert_eq!(fs::read(aside).unwrap(), garbage);
            drop(SqliteRecords::open(&path).unwrap());
            assert_eq!(examine(&path, true).unwrap(), []);
        }
    }

    #[test]
    fn a_database_with_other_tables_is_refused_and_set_aside() {
        for (number, change) in [
            "DROP TABLE records",
            "DROP TABLE revisions",
            "DELETE FROM revisions",
            "ALTER TABLE records DROP COLUMN revision",
            "DROP TABLE records; CREATE TABLE records (theirs INTEGER); PRAGMA user_version = 0",
        ]
        .into_iter()
        .enumerate()
        {
            let temp = tempfile::tempdir().unwrap();
            let path = temp.path().join("records.db");
            drop(filled(&path));
            Connection::open(&path)
                .unwrap()
                .execute_batch(change)
                .unwrap();
            assert!(!examine(&path, false).unwrap()[0].repaired, "{change}");
            if number == 0 {
                let opened = SqliteRecords::open(&path);
                let loaded = opened.and_then(|records| records.load_blocking(Table::Notes, "key"));
                let error = loaded.err().unwrap();
                assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
                assert!(error.to_string().contains("fsck --repair"), "{error}");
            }
            assert!(examine(&path, true).unwrap()[0].repaired, "{change}");
            drop(filled(&path));
            assert_eq!(examine(&path, true).unwrap(), [], "{change}");
        }
    }

    /// An opening completes it.
    #[test]
    fn a_database_that_has_no_tables_yet_is_sound() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("records.db");
        fs::write(&path, "").unwrap();
        assert_eq!(examine(&path, true).unwrap(), []);
        drop(filled(&path));
        assert_eq!(examine(&path, true).unwrap(), []);
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
        assert!(!examine(&path, false).unwrap()[0].repaired);
        assert!(path.join("theirs").exists(), "only examined");
        assert!(examine(&path, true).unwrap()[0].repaired);
        assert!(temp.path().join("records.db.damaged-1/theirs").exists());
        drop(SqliteRecords::open(&path).unwrap());
        assert_eq!(examine(&path, true).unwrap(), []);
    }

    /// Returns a database that has a record.
    fn filled(path: &Path) -> SqliteRecords {
        let records = SqliteRecords::open(path).unwrap();
        let mut batch = Batch::new();
        batch.put(Table::Notes, "key", Expect::Absent, "value".into());
        records.commit_blocking(&batch).unwrap();
        records
    }

    #[test]
    fn what_is_in_the_place_of_the_other_files_is_refused_and_set_aside() {
        for (file, keeps_records) in [
            ("records.db-wal", false),
            ("records.db-shm", true),
            ("records.db.lock", true),
        ] {
            for is_link in [true, false] {
                let temp = tempfile::tempdir().unwrap();
                let path = temp.path().join("records.db");
                drop(filled(&path));
                let misplaced = temp.path().join(file);
                fs::remove_file(&misplaced).unwrap();
                match is_link {
                    true => std::os::unix::fs::symlink("/nowhere", &misplaced).unwrap(),
                    false => fs::create_dir_all(misplaced.join("theirs")).unwrap(),
                }
                for open in [SqliteRecords::open, SqliteRecords::open_read_only] {
                    let error = open(&path).err().unwrap();
                    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
                    let said = error.to_string();
                    assert!(
                        said.contains(file) && said.contains("fsck --repair"),
                        "{said}"
                    );
                }
                let found = examine(&path, false).unwrap();
                assert_eq!(found.len(), 1, "{file}: {found:?}");
                assert!(found[0].detail.contains(", found a "), "{found:?}");
                assert!(fs::symlink_metadata(&misplaced).is_ok(), "only examined");
                assert!(examine(&path, true).unwrap()[0].repaired, "{file}");
                let records = SqliteRecords::open(&path).unwrap();
                let kept = records.load_blocking(Table::Notes, "key").unwrap();
                assert_eq!(kept.is_some(), keeps_records, "{file}");
                drop(records);
                assert_eq!(examine(&path, true).unwrap(), [], "{file}");
            }
        }
    }

    #[test]
    fn a_log_without_a_database_is_set_aside_if_it_is_not_a_file() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("records.db");
        fs::create_dir(temp.path().join("records.db-wal")).unwrap();
        assert!(SqliteRecords::open(&path).is_err());
        assert!(examine(&path, true).unwrap()[0].repaired);
        drop(SqliteRecords::open(&path).unwrap());
        assert_eq!(examine(&path, true).unwrap(), []);
    }

    #[test]
    fn the_format_is_known_without_opening_the_records() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("records.db");
        assert_eq!(stored_version(&path).unwrap(), None);
        drop(filled(&path));
        assert_eq!(stored_version(&path).unwrap(), Some(VERSION.into()));
        fs::write(&path, [7; 8192]).unwrap();
        // The log has the page with the number, too.
        fs::remove_file(temp.path().join("records.db-wal")).unwrap();
        let error = stored_version(&path).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
    }
}
