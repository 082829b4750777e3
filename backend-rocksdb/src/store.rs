//! The store, and the opener of locations such as `rocksdb:///path`.

use std::ops::Deref;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use async_trait::async_trait;
use cas_core::check::Finding;
use cas_core::sync::lock;
use cas_core::{Capabilities, Context, Location, Opener, Result, Store, pool};
use cas_kv::{FileNames, KvStore, OwnedDir, Reserve, Reuse, Space};

use crate::database::Database;
use crate::engine::RocksEngine;
use crate::options::Tuning;

/// The laws (conformance tests) that this store does not pass, as pairs of a law and the reason.
/// The list is empty.
pub const GAPS: &[(&str, &str)] = &[];

/// File names in the directory of a store.
const NAMES: FileNames = FileNames {
    engine: "RocksDB",
    database: "db",
    new: "db.new",
};
/// What is reserved for a full disk: more bytes than RocksDB writes, and more files than it
/// creates, when it opens a database and removes a blob. Each opening for writing leaves one more
/// file on the disk. These files remain until a collection writes the removals to tables. The
/// reserved files are enough for several commands before that collection.
const RESERVE: Reserve = Reserve {
    bytes: 8 << 20,
    files: 32,
};

/// A store in one RocksDB database.
pub struct RocksStore {
    store: KvStore,
    database: Weak<Database>,
}

impl RocksStore {
    /// Opens the store in the directory `path`. Creates the store if the directory is absent or
    /// empty. The store is locked until its last handle is dropped: meanwhile, neither this process
    /// nor another can open it again. If the process cannot write to the directory, opens the store
    /// read-only, and shares the lock with other processes that cannot write to the directory. If
    /// the disk is too full to open the database for writing, also opens the store read-only, but
    /// does not share the lock.
    ///
    /// # Errors
    /// `Busy` if the store is locked (the message names the pid of the process that locked it, if
    /// the pid is known); `FailedPrecondition` if `path` is a file, a directory with other
    /// contents, a database of another program or a store of a newer format; `Corrupt` if the
    /// database is damaged or lost; `Full` if the disk has no room to create the store, or fills up
    /// while the store is opened; errors of the file system.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        Self::open_with(path, Tuning::default())
    }

    /// Opens the store like [`RocksStore::open`], with the options `tuning`.
    ///
    /// # Errors
    /// As [`RocksStore::open`].
    pub fn open_with(path: impl AsRef<Path>, tuning: Tuning) -> Result<Self> {
        let path = path.as_ref();
        open(path, tuning)
            .map_err(|error| error.backend("rocksdb"))
            .during("open store", path.display())
    }

    /// Returns the statistics that RocksDB has collected since the store was opened, as text.
    /// Returns `None` if [`Tuning::statistics`] is false.
    pub fn statistics(&self) -> Option<String> {
        self.database.upgrade()?.options.get_statistics()
    }
}

/// Gives access to the content, records and images of the store.
impl Deref for RocksStore {
    type Target = KvStore;

    fn deref(&self) -> &KvStore {
        &self.store
    }
}

fn open(path: &Path, tuning: Tuning) -> Result<RocksStore> {
    let dir = OwnedDir::claim(path, NAMES)?;
    let space = Space::new(dir.path(), RESERVE, Reuse::AfterCompaction)?;
    let last = Mutex::new(Weak::new());
    let store = KvStore::open(dir, |path, mode| {
        let engine = RocksEngine::open(path, mode, space.clone(), tuning)?;
        *lock(&last) = Arc::downgrade(&engine.database());
        Ok(engine)
    })?;
    let database = last.into_inner().unwrap_or_else(PoisonError::into_inner);
    Ok(RocksStore { store, database })
}

/// Examines the database in the directory `path` with [`KvStore::examine`]. Returns its result, or
/// `None` if the directory never contained a store.
fn examine(path: &Path, repair: bool, tuning: Tuning) -> Result<Option<Finding>> {
    if !OwnedDir::has_store(path, NAMES)? {
        return Ok(None);
    }
    let dir = OwnedDir::claim(path, NAMES)?;
    let space = Space::new(dir.path(), RESERVE, Reuse::AfterCompaction)?;
    KvStore::examine(&dir, repair, |path, mode| {
        RocksEngine::open(path, mode, space.clone(), tuning)
    })
}

/// Opens stores at locations such as
/// `rocksdb:///path?cache=64MiB&buffer=16MiB&jobs=2&garbage=25&statistics=true`. The path is the
/// directory that contains the database. [`Tuning`] describes the options.
#[derive(Clone, Copy, Debug, Default)]
pub struct RocksOpener;

#[async_trait]
impl Opener for RocksOpener {
    fn scheme(&self) -> &'static str {
        "rocksdb"
    }

    fn capabilities(&self) -> Capabilities {
        cas_kv::CAPABILITIES
    }

    fn gaps(&self) -> &'static [(&'static str, &'static str)] {
        GAPS
    }

    fn check(&self, location: &Location) -> Result<()> {
        Tuning::from_location(location).map(|_| ())
    }

    async fn open(&self, location: &Location) -> Result<Store> {
        let tuning = Tuning::from_location(location)?;
        let path = location.path()?;
        pool::run(move || RocksStore::open_with(&path, tuning).map(|store| store.store())).await
    }

    async fn examine(&self, location: &Location, repair: bool) -> Result<Vec<Finding>> {
        let tuning = Tuning::from_location(location)?;
        let path = location.path()?;
        let found = pool::run(move || {
            examine(&path, repair, tuning)
                .map_err(|error| error.backend("rocksdb"))
                .during("examine store", path.display())
        });
        Ok(found.await?.into_iter().collect())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::fs;

    use cas_core::{ContentExt, Error, ErrorKind, pool::wait};
    use cas_kv::OpenMode;

    use super::*;

    /// Opens the store in `path`, and stores a blob with rows in a blob file. Returns the store.
    fn put(path: &Path, byte: u8) -> RocksStore {
        let store = RocksStore::open(path).unwrap();
        wait(store.content().put(vec![byte; 2 << 20].into())).unwrap();
        store
    }

    fn blobs(path: &Path) -> usize {
        let store = RocksStore::open(path).unwrap();
        wait(store.content().list(None, 10)).unwrap().len()
    }

    /// Returns the files of a directory, except for the messages of RocksDB.
    fn files(directory: &Path) -> BTreeMap<String, Vec<u8>> {
        let entries = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap());
        entries
            .map(|entry| (entry.file_name().into_string().unwrap(), entry.path()))
            .filter(|(name, _)| !name.starts_with("LOG"))
            .map(|(name, path)| (name, fs::read(path).unwrap()))
            .collect()
    }

    /// Removes the files of the database in `path` whose names begin with `start`.
    fn remove(path: &Path, start: &str) {
        let db = path.join("db");
        let names = files(&db)
            .into_keys()
            .filter(|name| name.starts_with(start));
        names.for_each(|name| fs::remove_file(db.join(name)).unwrap());
    }

    /// Repairs the store in `path`. Returns what was found.
    fn repair(path: &Path) -> Finding {
        examine(path, true, Tuning::default()).unwrap().unwrap()
    }

    #[test]
    fn a_close_copies_the_manifest() {
        let temp = tempfile::tempdir().unwrap();
        for byte in 0..3 {
            drop(put(temp.path(), byte));
            let db = files(&temp.path().join("db"));
            let current = &db["CURRENT"];
            let manifest = &db[String::from_utf8_lossy(current).trim_end()];
            let head = fs::read(temp.path().join("db.head")).unwrap();
            assert!(head == [&**current, &**manifest].concat(), "close {byte}");
        }
    }

    #[test]
    fn a_repair_that_fails_changes_nothing() {
        for (lost, with_head) in [("CURRENT", true), ("MANIFEST", true), ("MANIFEST", false)] {
            let temp = tempfile::tempdir().unwrap();
            let (db, head) = (temp.path().join("db"), temp.path().join("db.head"));
            drop(put(temp.path(), 1));
            remove(temp.path(), lost);
            if !with_head {
                fs::remove_file(&head).unwrap();
            }
            let before = files(&db);
            let dir = OwnedDir::claim(temp.path(), NAMES).unwrap();
            let space = Space::new(dir.path(), RESERVE, Reuse::AfterCompaction).unwrap();
            let found = KvStore::examine(&dir, true, |path, mode| match mode {
                OpenMode::Create => Err(Error::new(ErrorKind::Full, "the disk is full")),
                _ => RocksEngine::open(path, mode, space.clone(), Tuning::default()),
            });
            assert_eq!(found.unwrap_err().kind(), ErrorKind::Full, "{lost}");
            assert!(files(&db) == before, "{lost}");
            assert_eq!(head.exists(), with_head);
            assert!(!temp.path().join("db.repair").exists(), "{lost}");
            drop(dir);
            let found = repair(temp.path());
            assert!(files(&temp.path().join("db.damaged-1")) == before, "{lost}");
            // Without any manifest, RocksDB does not find the rows in blob files.
            let kept = usize::from(with_head);
            assert_eq!(blobs(temp.path()), kept, "{lost}: {found:?}");
        }
    }

    /// A kill leaves a copy that is older than the manifest.
    #[test]
    fn the_newest_manifest_is_tried_before_the_copy() {
        for (lost, kept) in [("CURRENT", 2), ("MANIFEST", 1)] {
            let (temp, killed) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
            drop(put(temp.path(), 1));
            let open = put(temp.path(), 2);
            fs::create_dir(killed.path().join("db")).unwrap();
            for name in ["db.head", "reserve"] {
                fs::copy(temp.path().join(name), killed.path().join(name)).unwrap();
            }
            for (name, data) in files(&temp.path().join("db")) {
                fs::write(killed.path().join("db").join(name), data).unwrap();
            }
            drop(open);
            remove(killed.path(), lost);
            let found = repair(killed.path());
            let with_copy = found
                .detail
                .contains("a copy that was made when the database was last closed");
            assert_eq!(with_copy, lost == "MANIFEST", "{found:?}");
            assert_eq!(blobs(killed.path()), kept, "{found:?}");
        }
    }
}
