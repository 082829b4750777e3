//! The file `index.json`: reading, caching, locking and replacing it.
//!
//! A process that creates, changes or repairs the file with this crate first takes the index.json
//! lock, which is the lock on `.cas/index.lock`. Other programs do not take this lock.
//!
//! Any program may replace the file or write to it at any time. Each use of the cached index
//! therefore compares the status of the file (inode, size and times) with its status when the index
//! was read. Two changes within one tick of the kernel's clock can leave the same status. If the
//! file was changed less than [`TICK`] before it was read, its status is therefore not trusted. The
//! next use then reads the file again and compares its bytes with the cached bytes.

use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use cas_core::layout::INDEX as FILE;
use cas_core::sync::lock;
use cas_core::{Context, Error, Result, limit};
use cas_host::{Dir, Lock};

use crate::index::{Index, REPAIR};
use crate::{file, refs, time};

/// Minimum age of a status that is trusted. It is longer than a tick of the kernel's clock, which
/// takes at most 10 ms.
const TICK: Duration = Duration::from_millis(50);

/// The file, and a cache of the index that was read last.
#[derive(Default)]
pub(crate) struct IndexFile(Mutex<Option<Cached>>);

#[derive(Clone)]
struct Cached {
    /// The status of the file when it was read, or `None` if that status is too young to be
    /// trusted.
    status: Option<Status>,
    data: Arc<[u8]>,
    index: Arc<Index>,
}

impl IndexFile {
    /// Returns the cached index, or `None` if there is none or the file may have changed since.
    pub(crate) fn cached(&self, root: &Dir) -> Result<Option<Arc<Index>>> {
        let status = Status::of(root)?;
        let cached = lock(&self.0);
        let unchanged = cached
            .as_ref()
            .filter(|cached| cached.status == Some(status));
        Ok(unchanged.map(|cached| Arc::clone(&cached.index)))
    }

    /// Returns the index, from the cache if the file has not changed.
    pub(crate) fn read(&self, root: &Dir) -> Result<Arc<Index>> {
        let read = || match self.cached(root)? {
            Some(index) => Ok(index),
            None => self.read_file(root),
        };
        read().during("read", FILE)
    }

    fn read_file(&self, root: &Dir) -> Result<Arc<Index>> {
        let (now, status) = (SystemTime::now(), Status::of(root)?);
        let data = file::read(root, FILE, limit::DOCUMENT_READ)?.ok_or_else(missing)?;
        let cached = lock(&self.0).clone();
        let index = match cached.filter(|cached| *cached.data == *data) {
            Some(cached) => cached.index,
            None => Arc::new(Index::parse(&data)?),
        };
        let trusted = status.changed + TICK < now && Status::of(root)? == status;
        *lock(&self.0) = Some(Cached {
            status: trusted.then_some(status),
            data: data.into(),
            index: Arc::clone(&index),
        });
        Ok(index)
    }

    /// Changes the index with `work` under the index.json lock. Returns the result of `work`.
    ///
    /// Other programs take no lock. If one of them changed the file since it was read, `work` runs
    /// again on the new index.
    pub(crate) fn change<T>(
        &self,
        (root, cas_dir): (&Dir, &Dir),
        work: impl Fn(&mut Index) -> Result<T>,
    ) -> Result<T> {
        let _lock = lock_index(cas_dir)?;
        loop {
            let before = Status::of(root)?;
            let mut index = self.read(root)?.copy();
            let outcome = work(&mut index)?;
            let data = index.encode().during("write", FILE)?;
            if Status::of(root)? == before {
                replace((root, cas_dir), &data).during("write", FILE)?;
                *lock(&self.0) = Some(Cached {
                    status: None,
                    data: data.into(),
                    index: Arc::new(index),
                });
                return Ok(outcome);
            }
        }
    }

    /// Removes the new file that a killed change left behind, then runs `work`. Holds the
    /// index.json lock during both.
    ///
    /// # Errors
    /// As [`IndexFile::read`]; errors of `work`.
    pub(crate) fn tidy(
        &self,
        (root, cas_dir): (&Dir, &Dir),
        work: impl Fn(&Index) -> Result<()>,
    ) -> Result<()> {
        let _lock = lock_index(cas_dir)?;
        cas_dir.remove(NEW)?;
        work(&*self.read(root)?)
    }
}

/// The name of a new file, until it replaces the old one.
const NEW: &str = "index.new";

/// Waits for the index.json lock and takes it.
pub(crate) fn lock_index(cas_dir: &Dir) -> Result<Lock> {
    Ok(Lock::exclusive(cas_dir, "index.lock")?)
}

/// Replaces the file, or creates it. The caller holds the index.json lock.
pub(crate) fn replace((root, cas_dir): (&Dir, &Dir), data: &[u8]) -> Result<()> {
    Ok(root.replace(FILE, data, 0o644, (cas_dir, NEW))?)
}

/// Creates the file if it is absent, with the names that an old layout has in `refs/`.
pub(crate) fn create((root, cas_dir): (&Dir, &Dir)) -> Result<()> {
    let _lock = lock_index(cas_dir)?;
    match root.stat(FILE)? {
        Some(_) => Ok(()),
        None => {
            let index = refs::read(root)?.unwrap_or_else(Index::empty);
            replace((root, cas_dir), &index.encode()?)
        }
    }
}

/// The status of the file. Two states of the file have different statuses, unless they are less
/// than a tick of the clock apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Status {
    file: (u64, u64),
    size: i64,
    modified: SystemTime,
    changed: SystemTime,
}

impl Status {
    fn of(root: &Dir) -> Result<Self> {
        let stat = root.stat(FILE)?.ok_or_else(missing)?;
        Ok(Status {
            file: (stat.st_dev, stat.st_ino),
            size: stat.st_size,
            modified: time::modified(&stat),
            changed: time::changed(&stat),
        })
    }
}

/// Returns the error for an absent file.
pub(crate) fn missing() -> Error {
    Error::corrupt("index.json is missing").advice(REPAIR)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A program that writes to the file keeps its inode and, within one tick, its status.
    #[test]
    fn changes_of_other_programs_are_seen_at_once() {
        let temp = tempfile::tempdir().unwrap();
        let (root, file) = (Dir::open(temp.path()).unwrap(), IndexFile::default());
        let text = |number: u32| {
            let digest = cas_core::Digest::sha256(&number.to_le_bytes());
            let entry = r#""mediaType":"a/b","size":1,"annotations""#;
            let name = r#"{"org.opencontainers.image.ref.name":"x"}"#;
            format!(r#"{{"manifests":[{{"digest":"{digest}",{entry}:{name}}}]}}"#)
        };
        let name = "x".parse().unwrap();
        for number in 0..500u32 {
            std::fs::write(temp.path().join(FILE), text(number)).unwrap();
            if number % 100 == 0 {
                // Old enough that its status is trusted.
                std::thread::sleep(TICK * 2);
            }
            for _ in 0..2 {
                let target = file.read(&root).unwrap().get(&name).unwrap().unwrap();
                let expected = cas_core::Digest::sha256(&number.to_le_bytes());
                assert_eq!(target.digest, expected, "{number}");
            }
        }
        // On a busy machine, a read may come so late that the status is trusted.
        let is_too_young = |_| {
            std::fs::write(temp.path().join(FILE), text(0)).unwrap();
            file.read(&root).unwrap();
            file.cached(&root).unwrap().is_none()
        };
        assert!((0..100).any(is_too_young));
        std::thread::sleep(TICK * 2);
        file.read(&root).unwrap();
        assert!(file.cached(&root).unwrap().is_some());
    }
}
