//! A directory as a bucket, owned by one process: `dir:///path`.
//!
//! The service writes beside, syncs and renames; it syncs no directory, so that is done here.

use std::fs::{self, DirBuilder, File, TryLockError};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use cas_core::records::Table;
use cas_core::{
    Algorithm, Capabilities, Capability, Context, Error, Location, Opener, Result, Store, pool,
};
use opendal::Operator;
use opendal::services::Fs;

use crate::place::Place;
use crate::store::RemoteStore;

/// Longest path that is surely taken, below a root of up to some hundred bytes.
const LONGEST: usize = 3500;
/// Where files are written before they get their name.
const BESIDE: &str = "beside";
/// What a kill may leave of a store before it has its format.
const OURS: &[&str] = &["lock", BESIDE, "blobs", "records", "uploads"];

/// The directory itself: who owns it, and whether its names can still be trusted.
pub(crate) struct Folder {
    root: Arc<Path>,
    failed: AtomicBool,
    lock: File,
}

impl Drop for Folder {
    /// A child that was forked just now holds the lock too, until it runs its own program.
    fn drop(&mut self) {
        let _ = self.lock.unlock();
    }
}

impl Folder {
    /// Takes the directory, and makes it where nothing is.
    fn open(root: &Path) -> Result<Self> {
        DirBuilder::new().recursive(true).mode(0o700).create(root)?;
        refuse_foreign(root)?;
        let lock = own(&root.join("lock"))?;
        // What a kill left half written has no name yet.
        match fs::remove_dir_all(root.join(BESIDE)) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error.into()),
            _ => {}
        }
        let folder = Folder {
            root: root.into(),
            failed: AtomicBool::new(false),
            lock,
        };
        folder.furnish()?;
        Ok(folder)
    }

    /// Makes the folders that every store has, so that only the last of a path is ever new.
    fn furnish(&self) -> Result<()> {
        let blobs = Algorithm::ALL.map(|algorithm| format!("blobs/{}", algorithm.name()));
        let tables = Table::ALL.map(|table| format!("records/{}", table.name()));
        for folder in blobs
            .iter()
            .chain(&tables)
            .map(String::as_str)
            .chain(["uploads"])
        {
            fs::create_dir_all(self.root.join(folder))?;
        }
        for folder in ["blobs", "records", "", ".."] {
            sync(&self.root.join(folder))?;
        }
        Ok(())
    }

    /// # Errors
    /// `FailedPrecondition` after a sync that failed.
    pub(crate) fn check(&self) -> Result<()> {
        if self.failed.load(Ordering::SeqCst) {
            return Err(Error::precondition(
                "a directory could not be synced, so what was written since may be lost; open \
                 the store anew",
            )
            .subject(self.root.display()));
        }
        Ok(())
    }

    /// Syncs the folder in which `path` was written or deleted, and those of a cut name above it.
    /// The first sync that fails is the last: the kernel would say yes to the second.
    pub(crate) async fn settle(&self, path: &str) -> Result<()> {
        let root = Arc::clone(&self.root);
        let path = PathBuf::from(path);
        let synced = pool::run(move || {
            for folder in path.ancestors().skip(1) {
                sync(&root.join(folder))?;
                if !folder.to_string_lossy().ends_with('+') {
                    break;
                }
            }
            Ok(())
        });
        synced
            .await
            .inspect_err(|_| self.failed.store(true, Ordering::SeqCst))
    }
}

fn sync(folder: &Path) -> Result<()> {
    let opened = File::open(folder).and_then(|folder| folder.sync_all());
    opened.during("sync directory", folder.display())
}

/// A directory with something else in it is never made a store.
fn refuse_foreign(root: &Path) -> Result<()> {
    if root.join("format").exists() {
        return Ok(());
    }
    for entry in fs::read_dir(root)? {
        let name = entry?.file_name();
        if !name.to_str().is_some_and(|name| OURS.contains(&name)) {
            return Err(Error::precondition(format!(
                "the directory is not empty and no store: it has {name:?}; choose another"
            )));
        }
    }
    Ok(())
}

/// Locks the file until this process ends or lets go, and writes who holds it.
fn own(path: &Path) -> Result<File> {
    let mut file = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(path)?;
    match file.try_lock() {
        Ok(()) => {
            file.set_len(0)?;
            writeln!(file, "{}", std::process::id())?;
            Ok(file)
        }
        Err(TryLockError::WouldBlock) => {
            let mut owner = String::new();
            file.read_to_string(&mut owner)?;
            Err(Error::busy(format!(
                "process {} has the store open; wait for it to end",
                owner.trim()
            )))
        }
        Err(TryLockError::Error(error)) => Err(error.into()),
    }
}

impl RemoteStore {
    /// What a directory promises.
    pub(crate) const OF_DIRECTORY: Capabilities = Capabilities::of(&[Capability::Durable]);

    /// Opens the store in the directory `path`, making it where nothing is there yet.
    ///
    /// # Errors
    /// `Busy` while another opening has it, naming its process; `FailedPrecondition` for a
    /// directory with something else in it; `Corrupt`; those of the file system.
    pub async fn open_dir(path: impl Into<PathBuf>) -> Result<Self> {
        let path = path.into();
        let root = path.clone();
        let folder = pool::run(move || Folder::open(&root)).await;
        let folder = folder.during("open store", path.display())?;
        let (text, beside) = (path.to_string_lossy(), path.join(BESIDE));
        let service = Fs::default()
            .root(&text)
            .atomic_write_dir(&beside.to_string_lossy());
        // Nothing is retried: a file that could not be synced once must not be believed later.
        let operator = Operator::new(service)
            .map_err(|error| crate::error::sort(error, "open store", &text))?;
        let place = Place::new(operator, Some(folder), LONGEST);
        Self::open_alone(place, RemoteStore::OF_DIRECTORY)
            .await
            .during("open store", path.display())
    }
}

/// Opens `dir:///path`.
#[derive(Clone, Copy, Debug, Default)]
pub struct DirOpener;

#[async_trait]
impl Opener for DirOpener {
    fn scheme(&self) -> &'static str {
        "dir"
    }

    fn capabilities(&self) -> Capabilities {
        RemoteStore::OF_DIRECTORY
    }

    fn gaps(&self) -> &'static [(&'static str, &'static str)] {
        &[]
    }

    async fn open(&self, location: &Location) -> Result<Store> {
        location.check_options(&[])?;
        RemoteStore::open_dir(location.path()?)
            .await
            .map(|store| store.store())
    }
}

#[cfg(test)]
mod tests {
    use cas_core::ErrorKind;

    use super::*;

    /// What a directory holds after a failed sync is not known, and a second one says nothing.
    #[test]
    fn the_first_sync_that_fails_is_the_last() {
        let home = tempfile::tempdir().unwrap();
        let folder = Folder::open(home.path()).unwrap();
        pool::wait(folder.settle("uploads/x")).unwrap();
        folder.check().unwrap();
        pool::wait(folder.settle("no such folder/x")).unwrap_err();
        pool::wait(folder.settle("uploads/x")).unwrap();
        assert_eq!(
            folder.check().unwrap_err().kind(),
            ErrorKind::FailedPrecondition
        );
    }
}
