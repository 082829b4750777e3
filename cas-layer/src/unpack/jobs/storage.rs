//! Where unpack jobs are stored.

use std::io;
use std::path::PathBuf;

use cas_core::{Context, Error, Result, unique};
use cas_host::calls::{make_dirs, mkdirat, undisturbed};
use cas_host::{Dir, Entry, remove_all};
use rustix::fs::{CWD, Mode};
use rustix::io::Errno;

/// Maximum number of random identifiers that are tried for one job. If all of them exist already,
/// creating the job fails.
const ATTEMPTS: usize = 10;
/// Number of characters of an identifier.
const ID: usize = 16;

/// Keeps one directory for each job.
pub trait JobStorage: Send + Sync {
    /// Creates the empty directory of a new job. Returns the identifier of the job.
    ///
    /// # Errors
    /// `Internal` if no unused identifier is found; errors of the file system.
    fn create(&self) -> Result<String>;

    /// Returns the directory of a job.
    ///
    /// # Errors
    /// `InvalidArgument` if `id` is not an identifier; `NotFound` if the job does not exist; errors
    /// of the file system.
    fn path(&self, id: &str) -> Result<PathBuf>;

    /// Returns the identifiers of all jobs.
    ///
    /// # Errors
    /// Errors of the file system.
    fn keys(&self) -> Result<Vec<String>>;

    /// Deletes a job with everything in its directory. Does nothing if the job does not exist.
    ///
    /// # Errors
    /// `InvalidArgument` if `id` is not an identifier; errors of the file system.
    fn delete(&self, id: &str) -> Result<()>;
}

/// Keeps jobs in a directory, which is created with the first job.
#[derive(Clone, Debug)]
pub struct DiskJobStorage {
    root: PathBuf,
}

impl DiskJobStorage {
    /// Returns the storage in the directory `root`. Nothing is created yet.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        DiskJobStorage { root: root.into() }
    }

    fn place(&self, id: &str) -> Result<PathBuf> {
        if id.is_empty() || !id.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
            let why = "expected the identifier of an unpack job, which has only letters and \
                       digits; use an identifier from the storage";
            return Err(Error::invalid(why).subject(format!("{id:?}")));
        }
        Ok(self.root.join(id))
    }
}

impl JobStorage for DiskJobStorage {
    fn create(&self) -> Result<String> {
        make_dirs(&self.root).during("make directory", self.root.display())?;
        for _ in 0..ATTEMPTS {
            let random = unique::key("");
            let id = random[random.len() - ID..].to_owned();
            let path = self.root.join(&id);
            match mkdirat(CWD, &path, Mode::RWXU) {
                Err(Errno::EXIST) => {}
                made => {
                    let made = made.map_err(io::Error::from);
                    return made.during("make directory", path.display()).map(|()| id);
                }
            }
        }
        Err(
            Error::internal("no free identifier was found for an unpack job; please report it")
                .subject(self.root.display()),
        )
    }

    fn path(&self, id: &str) -> Result<PathBuf> {
        let path = self.place(id)?;
        match undisturbed(|| path.symlink_metadata()) {
            Ok(found) if found.is_dir() => Ok(path),
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(error).during("open unpack job", path.display())
            }
            _ => Err(Error::not_found("no such unpack job; begin a new one").subject(id)),
        }
    }

    fn keys(&self) -> Result<Vec<String>> {
        let dir = match Dir::open(&self.root) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            opened => opened.during("open directory", self.root.display())?,
        };
        let mut keys = Vec::new();
        for Entry { name, .. } in dir.entries().during("list", self.root.display())? {
            if self.path(&name).is_ok() {
                keys.push(name);
            }
        }
        keys.sort();
        Ok(keys)
    }

    fn delete(&self, id: &str) -> Result<()> {
        let path = self.place(id)?;
        match remove_all(&path, true) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            removed => removed.during("remove", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use cas_core::ErrorKind;

    use super::*;

    #[test]
    fn a_job_is_a_private_directory_until_it_is_deleted() {
        let temp = tempfile::tempdir().unwrap();
        let storage = DiskJobStorage::new(temp.path().join("snapshots/jobs"));
        assert!(storage.keys().unwrap().is_empty(), "the root is absent");
        let (one, two) = (storage.create().unwrap(), storage.create().unwrap());
        assert_ne!(one, two);
        let path = storage.path(&one).unwrap();
        let mode = path.metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o700);
        std::fs::create_dir_all(path.join("0/fs/etc")).unwrap();
        let mut both = [one.clone(), two.clone()];
        both.sort();
        assert_eq!(storage.keys().unwrap(), both);
        storage.delete(&one).unwrap();
        storage.delete(&one).unwrap();
        assert_eq!(storage.keys().unwrap(), [two]);
        assert_eq!(storage.path(&one).unwrap_err().kind(), ErrorKind::NotFound);
    }

    #[test]
    fn only_directories_with_the_name_of_a_job_are_jobs() {
        let temp = tempfile::tempdir().unwrap();
        let storage = DiskJobStorage::new(temp.path());
        std::fs::write(temp.path().join("file"), "").unwrap();
        std::fs::create_dir(temp.path().join("lost+found")).unwrap();
        std::os::unix::fs::symlink("/", temp.path().join("link")).unwrap();
        assert!(storage.keys().unwrap().is_empty());
        for id in ["", ".", "..", "a/b", "../x", "lost+found"] {
            let error = storage.delete(id).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{id:?}");
            let error = storage.path(id).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{id:?}");
        }
        assert!(temp.path().join("lost+found").exists());
    }
}
