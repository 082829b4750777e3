//! The directory of a `dir:` store: its lock, its folders and their syncs.
//!
//! OpenDAL writes a file to `beside/`, syncs it and renames it. OpenDAL does not sync directories,
//! so [`Folder`] syncs them.

use std::collections::BTreeSet;
use std::fs::{self, DirBuilder, File};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use cas_core::records::Table;
use cas_core::{Algorithm, Context, Error, Result, pool};
use cas_host::calls::undisturbed;
use cas_host::{Dir, OwnerFile, Place};
use tokio::sync::RwLock;

/// The file that a process locks while it has the store open.
pub(crate) const LOCK: &str = "lock";
/// The folder in which files are written before they are renamed.
pub(crate) const TEMP_DIR: &str = "beside";
/// Names in a store whose file `format` was not written yet, or was lost.
const OWN_NAMES: &[&str] = &[LOCK, TEMP_DIR, RESERVE, "blobs", "records", "uploads"];
/// The file that reserves space for removals on a full disk.
pub(crate) const RESERVE: &str = "reserve";
/// The beginning of the names that repairs give to damaged files `format`.
#[cfg(feature = "s3")]
pub(crate) const DAMAGED_FORMAT: &str = "format.damaged-";
/// A part of the names that repairs and writes give to what they set aside.
const ASIDE: &str = ".damaged-";
/// Size of the reserve in bytes. A removal first writes new content of a record. This content fits
/// into the space of the reserve, unless the record has very many labels.
const RESERVE_SIZE: usize = 64 << 10;

/// The locked directory of a store. After a failed sync of a directory, [`Folder::check`] refuses
/// all changes.
pub(crate) struct Folder {
    root: Arc<Path>,
    /// The directory `root`.
    dir: Dir,
    sync_failed: AtomicBool,
    owner: OwnerFile,
    /// Locked for writing by the change that uses the reserve, and for reading by other changes
    /// that may use it. The other changes therefore cannot take the space that the reserve has
    /// freed.
    pub(crate) reclaiming: RwLock<()>,
}

impl Folder {
    /// Locks the directory, and creates it if it does not exist. If the directory cannot be
    /// written, other processes may open it for reading, too.
    ///
    /// # Errors
    /// `Busy` if the directory is locked; `FailedPrecondition` if it is not a store and contains
    /// other files; errors of the file system.
    pub(crate) fn claim(root: &Path) -> Result<Self> {
        DirBuilder::new().recursive(true).mode(0o700).create(root)?;
        refuse_foreign(root)?;
        Ok(Folder {
            root: root.into(),
            dir: Dir::open(root)?,
            sync_failed: AtomicBool::new(false),
            owner: OwnerFile::claim(&root.join(LOCK))?,
            reclaiming: RwLock::new(()),
        })
    }

    /// Removes what a kill left half written, and creates the folders of a store. Does nothing if
    /// the directory cannot be written.
    pub(crate) fn prepare(&self) -> Result<()> {
        if !self.is_writable() {
            return Ok(());
        }
        self.remove_temporary()?;
        let created = self.create_subfolders();
        let is_full = |error: &Error| error.kind() == cas_core::ErrorKind::Full;
        // A loss of power may have left a full disk without one of the folders.
        match created.as_ref().is_err_and(is_full) && self.release_reserve() {
            true => self.create_subfolders(),
            false => created,
        }
    }

    /// Returns whether the directory can be written.
    pub(crate) fn is_writable(&self) -> bool {
        self.owner.is_writable()
    }

    /// Removes the files that a kill left half written. The folder stays, because a full disk may
    /// have no space for a new one.
    fn remove_temporary(&self) -> Result<()> {
        let entries = match fs::read_dir(self.root.join(TEMP_DIR)) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            entries => entries?,
        };
        for entry in entries {
            let entry = entry?;
            match entry.file_type()?.is_dir() {
                true => fs::remove_dir_all(entry.path())?,
                false => fs::remove_file(entry.path())?,
            }
        }
        Ok(())
    }

    /// Creates the folders that every store has. A later write then creates folders only for an
    /// object with a long name, which is split into folders.
    pub(crate) fn create_subfolders(&self) -> Result<()> {
        let folders = ["uploads", TEMP_DIR].map(str::to_owned);
        for folder in subfolders().chain(folders) {
            fs::create_dir_all(self.root.join(folder))?;
        }
        for folder in ["blobs", "records", "", ".."] {
            sync(&self.root.join(folder))?;
        }
        Ok(())
    }

    /// Writes the reserve of a store, if the reserve is absent and the directory can be written. On
    /// a full disk the store works without a reserve.
    pub(crate) fn create_reserve(&self) {
        if !self.is_writable() {
            return;
        }
        let path = self.root.join(RESERVE);
        if let Ok(mut file) = File::create_new(path)
            && file.write_all(&[1; RESERVE_SIZE]).is_err()
        {
            self.release_reserve();
        }
    }

    /// Removes the reserve, to free its space. Returns whether there was one.
    pub(crate) fn release_reserve(&self) -> bool {
        let removed = fs::remove_file(self.root.join(RESERVE)).is_ok();
        if removed && let Ok(root) = File::open(&self.root) {
            // btrfs gives the space to others only after the removal is durable.
            let _ = cas_host::syncfs(&root);
        }
        removed
    }

    /// Checks that the directory can be written, and that no sync of a directory has failed so far.
    ///
    /// # Errors
    /// `Denied` if the directory is read-only; `FailedPrecondition` after a failed sync.
    pub(crate) fn check(&self) -> Result<()> {
        if !self.is_writable() {
            return Err(Error::read_only().subject(self.root.display()));
        }
        if self.sync_failed.load(Ordering::SeqCst) {
            return Err(Error::precondition(
                "an earlier sync of a directory failed, so recent writes may be lost; check the \
                 device and reopen the store",
            )
            .subject(self.root.display()));
        }
        Ok(())
    }

    /// Returns an error that names what is in the place of the file of an object, if that is not a
    /// file. Returns `None` if there is a file or nothing. OpenDAL would wait for ever at a pipe,
    /// and would follow a symbolic link.
    ///
    /// # Errors
    /// Errors of the file system.
    pub(crate) fn misplaced(&self, path: &str) -> Result<Option<Error>> {
        let found = Place::File(path).misplaced(&self.dir);
        let found = found.during("stat", path)?;
        Ok(found.map(|what| what.error(&self.root.join(path))))
    }

    /// Returns the first `limit` names of objects in `folder`, in byte order, for which `wanted`
    /// returns true. `folder` is empty or ends in `/`. An object has a name even if something other
    /// than a file is in its place. OpenDAL would leave out such names or fail.
    pub(crate) async fn names(
        &self,
        folder: &str,
        wanted: impl Fn(&str) -> bool + Send + 'static,
        limit: usize,
    ) -> Result<BTreeSet<String>> {
        let (path, folder) = (self.root.join(folder), folder.to_owned());
        pool::run(move || {
            let mut names = BTreeSet::new();
            let mut add = |name: String| {
                if wanted(&name) {
                    names.insert(name);
                }
                if names.len() > limit {
                    names.pop_last();
                }
            };
            each_name(&path, &folder, "", &mut add).during("list", path.display())?;
            Ok(names)
        })
        .await
    }

    /// Moves what is in the place of the file of an object to the directory of the store, under
    /// another name. If this process is killed, it has either the old or the new name.
    pub(crate) async fn set_aside(&self, path: &str) -> Result<()> {
        let (root, path) = (Arc::clone(&self.root), path.to_owned());
        pool::run(move || set_aside(&root, &path).map(drop)).await
    }

    /// Returns what takes the place of the ETag of an object: the inode of its file, and the time
    /// of the last change of this file, which only the kernel sets. Returns `None` if the file does
    /// not exist.
    pub(crate) async fn etag(&self, path: &str) -> Result<Option<String>> {
        let path = self.root.join(path);
        pool::run(move || match fs::metadata(&path) {
            Ok(found) => Ok(Some(format!(
                "{}-{}.{:09}",
                found.ino(),
                found.ctime(),
                found.ctime_nsec()
            ))),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).during("stat", path.display()),
        })
        .await
    }

    /// Syncs the folder in which `path` was written or deleted. If the name was split into folders,
    /// syncs all of them and the folder above.
    ///
    /// A failed sync is final: the kernel may report success the second time although data was
    /// lost. A missing folder counts as a failed sync. Other errors of opening a folder do not.
    pub(crate) async fn sync_parents(&self, path: &str) -> Result<()> {
        let root = Arc::clone(&self.root);
        let path = PathBuf::from(path);
        let synced = pool::run(move || {
            for folder in path.ancestors().skip(1) {
                let folder_path = root.join(folder);
                let opened = File::open(&folder_path).during("open", folder_path.display())?;
                if let Err(error) = opened.sync_all() {
                    return Ok(Err(error).during("sync directory", folder_path.display()));
                }
                if !folder.to_string_lossy().ends_with('+') {
                    break;
                }
            }
            Ok(Ok(()))
        });
        let synced: Result<Result<()>> = synced.await;
        let is_gone = |error: &Error| error.kind() == cas_core::ErrorKind::NotFound;
        if matches!(synced, Ok(Err(_))) || synced.as_ref().is_err_and(is_gone) {
            self.sync_failed.store(true, Ordering::SeqCst);
        }
        synced.flatten()
    }
}

/// Returns the folders of blobs and of records.
pub(crate) fn subfolders() -> impl Iterator<Item = String> {
    let blobs = Algorithm::ALL.map(|algorithm| format!("blobs/{}", algorithm.name()));
    blobs.into_iter().chain(Table::ALL.map(table_folder))
}

/// Moves an entry of the store in the directory `root` to this directory, durably, under a name
/// that a check does not take for the name of an object. Returns the new name, or `None` if the
/// entry does not exist.
pub(crate) fn set_aside(root: &Path, path: &str) -> Result<Option<String>> {
    let (parent, name) = path.rsplit_once('/').unwrap_or((".", path));
    let (from, to) = (Dir::open(root.join(parent))?, Dir::open(root)?);
    let aside = from.set_aside_into(&to, name)?;
    from.sync()?;
    to.sync()?;
    Ok(aside)
}

/// Returns the folder of the records of a table.
pub(crate) fn table_folder(table: Table) -> String {
    format!("records/{}", table.name())
}

/// Calls `add` for everything in the directory `path` and below it that is not a folder of objects.
/// Each name is the path in the folder `folder` of the store, and begins with `before`.
fn each_name(
    path: &Path,
    folder: &str,
    before: &str,
    add: &mut dyn FnMut(String),
) -> io::Result<()> {
    let entries = match undisturbed(|| fs::read_dir(path)) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        opened => opened?,
    };
    for entry in entries {
        let entry = entry?;
        let Ok(name) = entry.file_name().into_string() else {
            continue;
        };
        let name = format!("{before}{name}");
        match entry.file_type()?.is_dir() && is_folder(&format!("{folder}{name}")) {
            true => each_name(&entry.path(), folder, &format!("{name}/"), add)?,
            false => add(name),
        }
    }
    Ok(())
}

/// Returns whether a directory at this path in a store is a folder of objects. Otherwise it is in
/// the place of an object.
fn is_folder(path: &str) -> bool {
    // An object with a long name is in folders whose names end with `+`.
    path.ends_with('+') || path.matches('/').count() < 2
}

fn sync(folder: &Path) -> Result<()> {
    let opened = File::open(folder).and_then(|folder| folder.sync_all());
    opened.during("sync directory", folder.display())
}

/// Refuses a directory that is not a store and contains other files.
fn refuse_foreign(root: &Path) -> Result<()> {
    // Something else in the place of the file is reported elsewhere.
    match undisturbed(|| root.join("format").symlink_metadata()) {
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        found => return Ok(found.map(|_| ())?),
    }
    for entry in fs::read_dir(root)? {
        let name = entry?.file_name();
        let is_own = |name: &str| OWN_NAMES.contains(&name) || name.contains(ASIDE);
        if !name.to_str().is_some_and(is_own) {
            return Err(Error::precondition(format!(
                "the directory is not empty and not a store: it contains {name:?}; choose \
                 another directory"
            )));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {

    use super::*;

    /// After a failed sync the state on disk is unknown, and a later success proves nothing.
    #[test]
    fn a_failed_sync_is_final() {
        let home = tempfile::tempdir().unwrap();
        let folder = Folder::claim(home.path()).unwrap();
        folder.prepare().unwrap();
        pool::wait(folder.sync_parents("uploads/x")).unwrap();
        folder.check().unwrap();
        pool::wait(folder.sync_parents("no such folder/x")).unwrap_err();
        pool::wait(folder.sync_parents("uploads/x")).unwrap();
        assert_eq!(
            folder.check().unwrap_err().kind(),
            cas_core::ErrorKind::FailedPrecondition
        );
    }

    /// Otherwise, a record that was replaced by a directory would be taken for absent.
    #[test]
    fn a_directory_in_the_place_of_an_object_has_its_name() {
        let home = tempfile::tempdir().unwrap();
        let folder = Folder::claim(home.path()).unwrap();
        folder.prepare().unwrap();
        let images = home.path().join("records/images");
        fs::create_dir_all(images.join("empty")).unwrap();
        fs::create_dir_all(images.join("full/inside")).unwrap();
        fs::create_dir_all(images.join("long+/rest")).unwrap();
        fs::write(images.join("file"), "").unwrap();
        let names = |within| {
            let names = folder.names(within, |_| true, 9);
            Vec::from_iter(pool::wait(names).unwrap())
        };
        let expected = ["empty", "file", "full", "long+/rest"];
        assert_eq!(names("records/images/"), expected);
        let expected = expected.map(|name| format!("images/{name}"));
        assert_eq!(names("records/"), expected);
        assert_eq!(names("blobs/"), [""; 0]);
    }

    /// An object must not be taken for absent because its place cannot be examined.
    #[test]
    fn a_place_that_cannot_be_examined_is_an_error() {
        let home = tempfile::tempdir().unwrap();
        let folder = Folder::claim(home.path()).unwrap();
        folder.prepare().unwrap();
        fs::write(home.path().join("file"), "").unwrap();
        for sound in ["file", "absent", "absent/x"] {
            assert!(folder.misplaced(sound).unwrap().is_none(), "{sound}");
        }
        let what = folder.misplaced("uploads").unwrap().unwrap();
        assert_eq!(what.kind(), cas_core::ErrorKind::Corrupt, "{what}");
        let error = folder.misplaced("file/x").unwrap_err();
        let kind = cas_core::ErrorKind::FailedPrecondition;
        assert_eq!(error.kind(), kind, "{error}");
        assert!(error.to_string().contains("file/x"), "{error}");
    }
}
