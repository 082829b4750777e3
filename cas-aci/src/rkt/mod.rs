//! Importing the image store of rkt.

mod lock;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{ErrorKind as IoKind, Read};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use cas_core::error::excerpt;
use cas_core::{Context, Error, ErrorKind, Result, limit, pool};

use self::lock::ReadLock;
use crate::key::{HALF, Key, KeyPrefix};
use crate::ql::{Table, Value, damaged, tables};
use crate::remote::Remote;
use crate::store::{AciStore, WriteOptions};

/// The newest version of rkt's database.
const NEWEST: i64 = 7;
/// The directory with the files that rkt locks before it reads, writes or removes an archive.
const KEY_LOCKS: &str = "imagelocks";
/// The directory that rkt locks for each transaction.
const DATABASE_LOCK: &str = "db";
/// The file of the database, and its log, whose name is the SHA-1 of the name of the file.
const DATABASE: &str = "db/ql.db";
const LOG: &str = "db/.34a8b4c1ad933745146fdbfef3073706ee571625";

/// The result of [`AciStore::import_store`]: what was imported from a directory of rkt, and what
/// was not.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct ImportedStore {
    /// The keys of the imported ACIs, in the order of rkt's catalogue.
    pub imported: Vec<Key>,
    /// Keys of rkt's catalogue whose archive does not exist: rkt removed the ACI during this call,
    /// or the archive was lost.
    pub without_blob: Vec<String>,
    /// Keys of archives that rkt's catalogue does not list, because rkt removed or imported the ACI
    /// during this call, or was killed while it removed or imported the ACI.
    pub without_row: Vec<String>,
    /// Keys of ACIs that this import refused, each with the reason: the archive is damaged, is too
    /// large, is not an ACI, has a compression that is not supported, or has another key or name
    /// than in rkt's catalogue.
    pub refused: Vec<(String, Error)>,
    /// The number of imported remotes.
    pub remotes: usize,
    /// URLs of remotes that [`AciStore::write_remote`] refuses with `InvalidArgument`, each with
    /// the reason.
    pub refused_remotes: Vec<(String, Error)>,
}

/// An image of rkt's catalogue.
struct Row {
    key: String,
    name: String,
    options: WriteOptions,
}

/// What is in a directory of rkt.
struct Found {
    rows: Vec<Row>,
    remotes: Vec<(Remote, String)>,
    /// The archives by key.
    blobs: BTreeMap<String, PathBuf>,
    /// The lock of the directory, which keeps rkt from changing the format of its database.
    lock: Option<ReadLock>,
}

impl AciStore {
    /// Imports the image store of rkt in `directory`: all ACIs with their names, times and remotes.
    /// rkt may use the directory meanwhile, because this call takes the locks of rkt. An ACI that
    /// rkt imports or removes meanwhile may be missing from the result, or may be among
    /// [`ImportedStore::without_blob`] or [`ImportedStore::without_row`]. This call only reads the
    /// directory, and may be repeated.
    ///
    /// # Errors
    /// `Busy` if rkt has an exclusive lock for longer than a second, for example while it changes
    /// the format of its database; `NotFound` if the directory has no database;
    /// `FailedPrecondition` if the version of the database is newer than 7, if the log of the
    /// database has changes because rkt did not close the database, or after [`AciStore::close`];
    /// `Corrupt` if the database is damaged or was not written by rkt; `OutOfRange` if the database
    /// has more than [`limit::QL_DATABASE`] bytes; errors of the file system and of the store. ACIs
    /// and remotes that were imported before the error stay.
    pub async fn import_store(&self, directory: impl AsRef<Path>) -> Result<ImportedStore> {
        let directory = directory.as_ref().to_owned();
        let shown = directory.display().to_string();
        let imported = self.import_directory(directory).await;
        imported.during("import rkt's image store", shown)
    }

    async fn import_directory(&self, directory: PathBuf) -> Result<ImportedStore> {
        self.catalogue().check_open()?;
        let locks = directory.join(KEY_LOCKS);
        let found = pool::run(move || read(&directory)).await?;
        let _lock = found.lock;
        let (mut done, mut keys) = (ImportedStore::default(), BTreeMap::new());
        let listed: BTreeSet<&String> = found.rows.iter().map(|row| &row.key).collect();
        let unlisted = found.blobs.keys().filter(|key| !listed.contains(key));
        done.without_row = unlisted.cloned().collect();
        for Row { key, name, options } in found.rows {
            let Some(path) = found.blobs.get(&key) else {
                done.without_blob.push(key);
                continue;
            };
            let (lock, path) = (locks.join(&key), path.clone());
            let Some(file) = pool::run(move || open_archive(&lock, &path)).await? else {
                done.without_blob.push(key);
                continue;
            };
            match self.write_found(file, options.with_name(name)).await {
                Err(error) if is_of_aci(&error) => done.refused.push((key, error)),
                outcome => {
                    let whole = outcome?;
                    keys.insert(key, whole);
                    done.imported.push(whole);
                }
            }
        }
        for (mut remote, key) in found.remotes {
            remote.key = keys.get(&key).copied();
            match self.write_remote(&remote).await {
                Err(error) if error.kind() == ErrorKind::InvalidArgument => {
                    done.refused_remotes.push((remote.aci_url, error));
                }
                outcome => {
                    outcome?;
                    done.remotes += 1;
                }
            }
        }
        Ok(done)
    }
}

/// Returns whether an error is about one ACI and not about the store.
fn is_of_aci(error: &Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::Corrupt | ErrorKind::OutOfRange | ErrorKind::Unsupported
    )
}

/// Opens an archive under the lock of its key. Returns `None` if rkt has removed it. rkt never
/// changes an archive, so an open one stays whole without the lock.
fn open_archive(lock: &Path, path: &Path) -> Result<Option<File>> {
    let _lock = ReadLock::new(lock)?;
    match File::open(path) {
        Err(error) if error.kind() == IoKind::NotFound => Ok(None),
        file => file.map(Some).during("open", path.display()),
    }
}

fn read(directory: &Path) -> Result<Found> {
    let lock = ReadLock::new(directory)?;
    let database_lock = ReadLock::new(&directory.join(DATABASE_LOCK))?;
    let log = directory.join(LOG);
    if fs::metadata(&log).is_ok_and(|log| log.len() > 0) {
        return Err(Error::precondition(
            "the database was not closed, and its log has changes; run `rkt image list` first",
        )
        .subject(log.display()));
    }
    let path = directory.join(DATABASE);
    let tables = read_database(&path).map_err(|error| error.within(path.display()))?;
    let table = |name: &str| tables.iter().find(|table| table.name == name);
    let version = table("version").filter(|table| table.len() > 0);
    let version = version.map(|table| table.value(0, &["version"]));
    let known = match version {
        Some(Value::Integer(version)) if *version > NEWEST => {
            return Err(Error::precondition(format!(
                "expected a database of version {NEWEST} or older, found {version}; a newer \
                 version of cas may read it"
            ))
            .subject(path.display()));
        }
        Some(Value::Integer(0..)) => true,
        _ => false,
    };
    let (Some(infos), Some(remotes), true) = (table("aciinfo"), table("remote"), known) else {
        return Err(damaged("it does not have the tables of rkt").subject(path.display()));
    };
    let named = |error: Error| error.subject(path.display());
    let rows = (0..infos.len())
        .map(|row| info(infos, row))
        .collect::<Result<_>>();
    let remotes = (0..remotes.len())
        .map(|row| remote(remotes, row))
        .collect::<Result<_>>();
    drop(database_lock);
    // rkt writes an archive before its row. So an archive that rkt imports after the rows were read
    // may be among `blobs` without a row.
    Ok(Found {
        rows: rows.map_err(named)?,
        remotes: remotes.map_err(named)?,
        blobs: blobs(&directory.join("blob/sha512"))?,
        lock,
    })
}

fn read_database(path: &Path) -> Result<Vec<Table>> {
    let file = File::open(path)?;
    let mut data = Vec::new();
    file.take(limit::QL_DATABASE + 1).read_to_end(&mut data)?;
    if data.len() as u64 > limit::QL_DATABASE {
        let allowed = limit::QL_DATABASE;
        return Err(Error::out_of_range(format!(
            "the database has more than the {allowed} bytes allowed; remove images with rkt"
        )));
    }
    tables(&data)
}

fn info(table: &Table, row: usize) -> Result<Row> {
    let imported = table.value(row, &["importtime"]).time()?;
    // Versions before 4 do not have this column.
    let last_used = match table.value(row, &["lastused", "lastusedtime"]) {
        Value::Null => imported,
        value => value.time()?,
    };
    let key = text(table, row, &["blobkey"])?;
    let options = WriteOptions::default()
        .with_key(Some(key_of(&key)?))
        .with_latest(*table.value(row, &["latest"]) == Value::Bool(true))
        .with_import_time(imported)
        .with_last_used(last_used);
    Ok(Row {
        name: text(table, row, &["name", "appname"])?,
        key,
        options,
    })
}

fn remote(table: &Table, row: usize) -> Result<(Remote, String)> {
    let mut remote = Remote::new(
        text(table, row, &["aciurl"])?,
        text(table, row, &["sigurl"])?,
    );
    remote.etag = text(table, row, &["etag"])?;
    // Versions before 2 do not have these two columns. rkt's migration changed the name of the
    // second.
    if let Value::Integer(seconds) = table.value(row, &["cachemaxage"]) {
        let seconds = u32::try_from(*seconds).unwrap_or(0);
        remote.cache_max_age = Duration::from_secs(seconds.into());
    }
    remote.download_time = match table.value(row, &["downloadtime", "downloadedtime"]) {
        Value::Null => SystemTime::UNIX_EPOCH,
        value => value.time()?,
    };
    Ok((remote, text(table, row, &["blobkey"])?))
}

fn text(table: &Table, row: usize, columns: &[&str]) -> Result<String> {
    match table.value(row, columns) {
        Value::Text(text) => Ok(text.clone()),
        _ => Err(damaged("a column for text has a value of another type")),
    }
}

/// Parses the key of a row, or the name of an archive. It must have as many digits as rkt writes.
fn key_of(text: &str) -> Result<KeyPrefix> {
    let key = text.parse::<KeyPrefix>().ok();
    key.filter(|key| key.hex().len() == HALF)
        .ok_or_else(|| damaged(&format!("\"{}\" is not a key", excerpt(text))))
}

/// Returns the paths of the archives below a directory, by key. The path of an archive in this
/// directory is `ab/sha512-ab…`.
fn blobs(directory: &Path) -> Result<BTreeMap<String, PathBuf>> {
    let mut blobs = BTreeMap::new();
    for part in list(directory)? {
        let is_directory = match fs::metadata(&part) {
            Err(error) if error.kind() == IoKind::NotFound => false,
            found => found.during("open", part.display())?.is_dir(),
        };
        if !is_directory {
            continue;
        }
        for path in list(&part)? {
            let name = path.file_name().and_then(|name| name.to_str());
            if let Some(name) = name.filter(|name| key_of(name).is_ok()) {
                blobs.insert(name.to_owned(), path);
            }
        }
    }
    Ok(blobs)
}

/// Returns the paths in a directory, or an empty list if the directory is absent.
fn list(directory: &Path) -> Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == IoKind::NotFound => return Ok(Vec::new()),
        entries => entries.during("list", directory.display())?,
    };
    let paths = entries.map(|entry| Ok(entry?.path()));
    let paths: Result<Vec<PathBuf>> = paths.collect();
    paths.during("list", directory.display())
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use cas_core::ErrorKind;

    use super::*;

    #[test]
    fn a_database_is_read_up_to_its_largest_size() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        let database = include_bytes!("../../tests/fixtures/ql/v7.ql");
        file.write_all(database).unwrap();
        file.as_file().set_len(limit::QL_DATABASE).unwrap();
        assert!(!read_database(file.path()).unwrap().is_empty());
        file.as_file().set_len(limit::QL_DATABASE + 1).unwrap();
        let error = read_database(file.path()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::OutOfRange);
        let said = error.to_string();
        assert!(said.contains(&limit::QL_DATABASE.to_string()), "{said}");
    }
}
