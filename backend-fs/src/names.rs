//! `index.json` as it was read last, so that it is parsed again only when it is another.
//!
//! Any program may replace it or write into it at any time, so its status is looked at before each
//! use. A change may leave all of the status as it was where it comes within the same tick of the
//! kernel's clock as the one before, and there the bytes are compared.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use cas_core::{Context, Error, Result, limit};
use cas_host::{Dir, Lock};

use crate::index::Index;
use crate::ingest::time;

const FILE: &str = "index.json";
/// More than a tick of the clock that files are stamped by, which is 10 ms at most.
const TICK: Duration = Duration::from_millis(50);

/// The names of a layout.
#[derive(Default)]
pub(crate) struct Names(Mutex<Option<Known>>);

#[derive(Clone)]
struct Known {
    /// The status that tells whether it is the same still; nothing while that may not.
    status: Option<Status>,
    data: Arc<[u8]>,
    index: Arc<Index>,
}

impl Names {
    /// The index, if it is known and the file has not changed.
    pub(crate) fn known(&self, root: &Dir) -> Result<Option<Arc<Index>>> {
        let status = Status::of(root)?;
        let known = self.lock();
        let same = known.as_ref().filter(|known| known.status == Some(status));
        Ok(same.map(|known| Arc::clone(&known.index)))
    }

    /// The index.
    pub(crate) fn read(&self, root: &Dir) -> Result<Arc<Index>> {
        let read = || match self.known(root)? {
            Some(index) => Ok(index),
            None => self.read_file(root),
        };
        read().during("read", FILE)
    }

    fn read_file(&self, root: &Dir) -> Result<Arc<Index>> {
        let (now, status) = (SystemTime::now(), Status::of(root)?);
        let data = root.read(FILE, limit::DOCUMENT_READ)?.ok_or_else(gone)?;
        let known = self.lock().clone();
        let index = match known.filter(|known| *known.data == *data) {
            Some(known) => known.index,
            None => Arc::new(Index::parse(&data)?),
        };
        let settled = status.changed + TICK < now && Status::of(root)? == status;
        *self.lock() = Some(Known {
            status: settled.then_some(status),
            data: data.into(),
            index: Arc::clone(&index),
        });
        Ok(index)
    }

    /// Changes the index under the lock that all of our processes take.
    ///
    /// Others take none: when the file is not the one that was read, all is done again.
    pub(crate) fn change<T>(
        &self,
        (root, ours): (&Dir, &Dir),
        work: impl Fn(&mut Index) -> Result<T>,
    ) -> Result<T> {
        let _lock = Lock::exclusive(ours, "index.lock")?;
        loop {
            let before = Status::of(root)?;
            let mut index = self.read(root)?.copy();
            let outcome = work(&mut index)?;
            let data = index.encode().during("write", FILE)?;
            if Status::of(root)? == before {
                root.replace(FILE, &data, 0o644, (ours, "index.new"))
                    .during("write", FILE)?;
                *self.lock() = Some(Known {
                    status: None,
                    data: data.into(),
                    index: Arc::new(index),
                });
                return Ok(outcome);
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<Known>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What changes whenever the file is replaced or written, but for the tick of a clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Status {
    file: (u64, u64),
    size: i64,
    modified: SystemTime,
    changed: SystemTime,
}

impl Status {
    fn of(root: &Dir) -> Result<Self> {
        let stat = root.stat(FILE)?.ok_or_else(gone)?;
        Ok(Status {
            file: (stat.st_dev, stat.st_ino),
            size: stat.st_size,
            modified: time(stat.st_mtime, stat.st_mtime_nsec),
            changed: time(stat.st_ctime, stat.st_ctime_nsec),
        })
    }
}

fn gone() -> Error {
    Error::corrupt("it is gone; no image layout is without it")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A program that writes into the file leaves its inode, and in one tick all of its status.
    #[test]
    fn what_others_write_is_seen_at_once() {
        let temp = tempfile::tempdir().unwrap();
        let (root, names) = (Dir::open(temp.path()).unwrap(), Names::default());
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
                // Long enough that its status is trusted.
                std::thread::sleep(TICK * 2);
            }
            for _ in 0..2 {
                let target = names.read(&root).unwrap().get(&name).unwrap().unwrap();
                let expected = cas_core::Digest::sha256(&number.to_le_bytes());
                assert_eq!(target.digest, expected, "{number}");
            }
        }
        assert!(names.known(&root).unwrap().is_none(), "too young");
        std::thread::sleep(TICK * 2);
        names.read(&root).unwrap();
        assert!(names.known(&root).unwrap().is_some());
    }
}
