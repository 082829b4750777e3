//! The store, and the opener of locations such as `redb:///path`.

use std::ops::Deref;
use std::path::Path;

use async_trait::async_trait;
use cas_core::check::Finding;
use cas_core::{Capabilities, Context, Location, Opener, Result, Store, pool};
use cas_kv::{KvStore, OpenMode, OwnedDir, Reserve, Reuse, Space, check_places, examine_places};

use crate::engine::RedbEngine;
use crate::file::{self, NAMES};
use crate::head::Head;

/// The laws (conformance tests) that this store does not keep, as pairs of a law and the reason.
/// There are none.
pub const GAPS: &[(&str, &str)] = &[];

/// Default size of the page cache in bytes.
const CACHE: usize = 64 << 20;
/// What is reserved for a full disk. This is more than redb writes when it opens the database and
/// removes a blob. redb creates no files for this.
const RESERVE: Reserve = Reserve {
    bytes: 2 << 20,
    files: 0,
};

/// A store in one redb file.
pub struct RedbStore(KvStore);

impl RedbStore {
    /// Opens the store in the directory `path`. Creates the store if the directory is absent or
    /// empty.
    ///
    /// If the process can write to the directory, locks the store until its last handle is dropped.
    /// While the store is locked, neither this process nor another process can open it. If the disk
    /// is too full to open the database for writing, opens the store read-only, but still locks it.
    ///
    /// If the process cannot write to the directory, opens the store read-only, and shares the lock
    /// with other processes that cannot write to the directory.
    ///
    /// # Errors
    /// `Busy` if the store is locked (the message has the pid of the process that locked it, if the
    /// pid is known); `FailedPrecondition` if `path` is a file, if the directory has no database
    /// but has files that no store creates, or if it has a database of another program or a store
    /// of a newer format; `Corrupt` if the database is damaged or lost, or if something else is in
    /// the place of the database or of the file `owner`; `Full` if the disk has no room to create
    /// the store, or becomes full while the store is opened; errors of the file system.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        Self::open_with(path.as_ref(), CACHE)
    }

    fn open_with(path: &Path, cache: usize) -> Result<Self> {
        let store = open(path, cache)
            .map_err(|error| error.backend("redb"))
            .during("open store", path.display())?;
        Ok(RedbStore(store))
    }
}

/// Gives access to the content, records and images of the store.
impl Deref for RedbStore {
    type Target = KvStore;

    fn deref(&self) -> &KvStore {
        &self.0
    }
}

fn open(path: &Path, cache: usize) -> Result<KvStore> {
    check_places(path, NAMES)?;
    let dir = OwnedDir::claim(path, NAMES)?;
    let space = space(&dir)?;
    KvStore::open(dir, |path, mode| open_engine(path, mode, &space, cache))
}

/// Examines the database in the directory `path` with [`KvStore::examine`]. Returns its result, or
/// `None` if the directory never contained a store.
fn examine(path: &Path, repair: bool) -> Result<Option<Finding>> {
    if !OwnedDir::has_store(path, NAMES)? {
        return Ok(None);
    }
    let dir = OwnedDir::claim(path, NAMES)?;
    let space = space(&dir)?;
    KvStore::examine(&dir, repair, |path, mode| {
        open_engine(path, mode, &space, CACHE)
    })
}

/// Examines the files of the store in the directory `path`, and then its database, unless something
/// else is in the place of one of the files and is not to be repaired.
fn examine_all(path: &Path, repair: bool) -> Result<Vec<Finding>> {
    let mut findings = examine_places(path, NAMES, repair)?;
    if findings.iter().all(|finding| finding.repaired) {
        findings.extend(examine(path, repair)?);
    }
    Ok(findings)
}

fn space(dir: &OwnedDir) -> Result<Space> {
    Ok(Space::new(dir.path(), RESERVE, Reuse::Immediate)?)
}

fn open_engine(path: &Path, mode: OpenMode, space: &Space, cache: usize) -> Result<RedbEngine> {
    RedbEngine::open(
        file::open(path, mode)?,
        Head::of(path),
        mode,
        space.clone(),
        cache,
    )
}

/// Opens stores at locations such as `redb:///path?cache=64MiB`. The path is the directory that
/// contains the database. The option `cache` is the size of the page cache, by default 64 MiB.
#[derive(Clone, Copy, Debug, Default)]
pub struct RedbOpener;

#[async_trait]
impl Opener for RedbOpener {
    fn scheme(&self) -> &'static str {
        "redb"
    }

    fn capabilities(&self) -> Capabilities {
        cas_kv::CAPABILITIES
    }

    fn gaps(&self) -> &'static [(&'static str, &'static str)] {
        GAPS
    }

    fn check(&self, location: &Location) -> Result<()> {
        location.check_options(&["cache"])?;
        location.size_option("cache").map(|_| ())
    }

    async fn open(&self, location: &Location) -> Result<Store> {
        location.check_options(&["cache"])?;
        let path = location.path()?;
        let cache = location.size_option("cache")?;
        let cache = cache.map_or(CACHE, |size| usize::try_from(size).unwrap_or(usize::MAX));
        pool::run(move || RedbStore::open_with(&path, cache).map(|store| store.store())).await
    }

    async fn examine(&self, location: &Location, repair: bool) -> Result<Vec<Finding>> {
        location.check_options(&["cache"])?;
        let path = location.path()?;
        pool::run(move || {
            examine_all(&path, repair)
                .map_err(|error| error.backend("redb"))
                .during("examine store", path.display())
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::FileExt;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    use cas_core::records::{Batch, Expect, Table};
    use cas_core::{ContentExt, Error, ErrorKind, pool::wait};
    use cas_kv::{Engine, Failed, Transaction, View};

    use super::*;

    /// Creates a store with a blob in `path`, and closes it. Returns its database and the head.
    fn create(path: &Path) -> [std::path::PathBuf; 2] {
        let store = RedbStore::open(path).unwrap();
        wait(store.content().put(vec![7; 100_000].into())).unwrap();
        ["cas.redb", "cas.redb.head"].map(|name| path.join(name))
    }

    fn overwrite_start(database: &Path) -> Vec<u8> {
        let file = fs::File::options().write(true).open(database).unwrap();
        file.write_all_at(&[0xa5; 4096], 0).unwrap();
        fs::read(database).unwrap()
    }

    fn blobs(path: &Path) -> usize {
        let store = RedbStore::open(path).unwrap();
        wait(store.content().list(None, 10)).unwrap().len()
    }

    #[test]
    fn a_repair_keeps_the_old_database_and_its_head() {
        let temp = tempfile::tempdir().unwrap();
        let [database, head] = create(temp.path());
        let (damaged, copy) = (overwrite_start(&database), fs::read(&head).unwrap());
        fs::write(temp.path().join("cas.redb.damaged-1"), "an earlier one").unwrap();
        let found = examine(temp.path(), true).unwrap().unwrap();
        assert!(found.repaired, "{found:?}");
        assert!(found.detail.contains("cas.redb.damaged-2"), "{found:?}");
        assert!(!found.detail.contains("fsck"), "{found:?}");
        assert!(found.detail.contains("was last closed"), "{found:?}");
        assert!(!head.exists(), "it does not fit the new database");
        let aside = temp.path().join("cas.redb.damaged-2");
        assert!(fs::read(&aside).unwrap() == damaged);
        assert!(fs::read(temp.path().join("cas.redb.damaged-2.head")).unwrap() == copy);
        assert_eq!(blobs(temp.path()), 1);
    }

    #[test]
    fn a_repair_reads_a_database_to_which_bytes_were_appended() {
        for appended in [1, 3, 4095, 100_000] {
            let temp = tempfile::tempdir().unwrap();
            let [database, _] = create(temp.path());
            let mut bytes = fs::read(&database).unwrap();
            bytes.extend(vec![0x5a; appended]);
            fs::write(&database, bytes).unwrap();
            let found = examine(temp.path(), true).unwrap().unwrap();
            assert!(found.repaired, "{appended}: {found:?}");
            assert_eq!(blobs(temp.path()), 1, "{appended}");
        }
    }

    /// Stores of earlier releases have no copy, and neither does a store that was just repaired.
    #[test]
    fn without_a_whole_copy_the_new_database_is_empty() {
        for left in [None, Some(0), Some(4096), Some(4103)] {
            let temp = tempfile::tempdir().unwrap();
            let [database, head] = create(temp.path());
            let damaged = overwrite_start(&database);
            match left {
                None => fs::remove_file(&head).unwrap(),
                Some(left) => fs::write(&head, vec![0; left]).unwrap(),
            }
            let found = examine(temp.path(), true).unwrap().unwrap();
            assert!(!found.repaired, "{found:?}");
            assert!(
                found
                    .detail
                    .contains("nothing in the old database can be read"),
                "{found:?}"
            );
            let aside = fs::read(temp.path().join("cas.redb.damaged-1")).unwrap();
            assert!(aside == damaged, "{left:?}");
            assert_eq!(blobs(temp.path()), 0);
        }
    }

    /// The database may be readable once the cause of the error is gone.
    #[test]
    fn an_error_other_than_damage_ends_a_repair_and_changes_nothing() {
        let temp = tempfile::tempdir().unwrap();
        let [database, head] = create(temp.path());
        let (damaged, copy) = (overwrite_start(&database), fs::read(&head).unwrap());
        for kind in [
            ErrorKind::Denied,
            ErrorKind::FailedPrecondition,
            ErrorKind::Internal,
        ] {
            let dir = OwnedDir::claim(temp.path(), NAMES).unwrap();
            let space = space(&dir).unwrap();
            let found = KvStore::examine(&dir, true, |path, mode| match mode {
                OpenMode::Damaged => Err(Error::new(kind, "a reason")),
                _ => open_engine(path, mode, &space, CACHE),
            });
            assert_eq!(found.unwrap_err().kind(), kind);
            assert!(fs::read(&database).unwrap() == damaged);
            assert!(fs::read(&head).unwrap() == copy);
        }
    }

    /// The reserve is missing if the disk was too full for it.
    #[test]
    fn a_lost_database_is_noticed_by_its_head_alone() {
        let temp = tempfile::tempdir().unwrap();
        let [database, head] = create(temp.path());
        fs::remove_file(&database).unwrap();
        fs::remove_file(temp.path().join("reserve")).unwrap();
        let error = RedbStore::open(temp.path()).err().unwrap();
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
        let found = examine(temp.path(), false).unwrap().unwrap();
        assert!(found.detail.contains("missing"), "{found:?}");
        let found = examine(temp.path(), true).unwrap().unwrap();
        assert!(
            found.detail.contains("an empty database was made"),
            "{found:?}"
        );
        assert!(!head.exists(), "it does not fit the new database");
        assert_eq!(blobs(temp.path()), 0);
    }

    /// An engine that commits a transaction, but reports a failure, if `fails` is set.
    struct Failing {
        engine: RedbEngine,
        fails: Arc<AtomicBool>,
    }

    impl Engine for Failing {
        fn row_size(&self) -> usize {
            self.engine.row_size()
        }
        fn inline_max(&self) -> usize {
            self.engine.inline_max()
        }
        fn view(&self) -> Result<Arc<dyn View>> {
            self.engine.view()
        }
        fn transact(
            &self,
            work: &mut dyn FnMut(&mut dyn Transaction) -> Result<bool, Failed>,
        ) -> Result<(), Failed> {
            self.engine.transact(work)?;
            match self.fails.load(Ordering::Relaxed) {
                true => Err(Failed::Broken(Error::unavailable("a planted error"))),
                false => Ok(()),
            }
        }
        fn sync(&self) -> Result<()> {
            self.engine.sync()
        }
        fn compact(&self, removed: u64) -> Result<bool> {
            self.engine.compact(removed)
        }
        fn space(&self) -> &Space {
            self.engine.space()
        }
    }

    #[test]
    fn a_number_of_a_failed_transaction_is_not_allocated_again() {
        let temp = tempfile::tempdir().unwrap();
        let dir = OwnedDir::claim(temp.path(), NAMES).unwrap();
        let (space, fails) = (space(&dir).unwrap(), Arc::new(AtomicBool::new(false)));
        let store = KvStore::open(dir, |path, mode| {
            Ok(Failing {
                engine: open_engine(path, mode, &space, CACHE)?,
                fails: fails.clone(),
            })
        });
        let records = store.unwrap().records();
        let revision = |key: &str, fails_once: bool| {
            let mut batch = Batch::new();
            batch.put(Table::Notes, key, Expect::Absent, "value".into());
            fails.store(fails_once, Ordering::Relaxed);
            assert_eq!(wait(records.commit(&batch)).is_err(), fails_once, "{key}");
            let found = wait(records.load(Table::Notes, key)).unwrap();
            found.unwrap().revision
        };
        let first = revision("first", false);
        let failed = revision("failed", true);
        let last = revision("last", false);
        assert!(failed != first && last != failed && last != first);
    }
}
