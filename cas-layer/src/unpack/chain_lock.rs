//! A lock for each chain ID. The task that has the lock makes the snapshot whose name is the chain
//! ID. Other tasks that need this snapshot, in this process or another one, wait for the lock.

use std::io;
use std::path::Path;
use std::time::Duration;

use cas_core::progress::Progress;
use cas_core::{Context, Digest, Result};
use cas_host::{Dir, Entry, Lock, calls};

/// Time between two attempts to take the lock.
const INTERVAL: Duration = Duration::from_millis(20);

/// The lock of one chain ID. It is released when it is dropped, or when the process ends.
pub(super) struct ChainLock {
    dir: Dir,
    name: String,
    _lock: Lock,
}

impl ChainLock {
    /// Waits for the lock of the snapshot `chain_id`. Creates the directory `locks` if it is
    /// absent.
    ///
    /// # Errors
    /// Errors of the file system.
    pub(super) async fn wait(
        locks: &Path,
        chain_id: &Digest,
        progress: &dyn Progress,
    ) -> Result<Self> {
        let made = calls::make_dirs(locks);
        made.during("make directory", locks.display())?;
        let dir = Dir::open(locks).during("open directory", locks.display())?;
        let name = chain_id.to_string();
        let mut told = false;
        loop {
            let lock = Lock::try_exclusive(&dir, &name);
            if let Some(lock) = lock.during("lock", locks.join(&name).display())? {
                let _lock = lock;
                return Ok(ChainLock { dir, name, _lock });
            }
            if !std::mem::replace(&mut told, true) {
                let short = chain_id.short();
                progress.warn(&format!(
                    "waiting until another unpack of the snapshot {short} ends"
                ));
            }
            tokio::time::sleep(INTERVAL).await;
        }
    }
}

impl Drop for ChainLock {
    fn drop(&mut self) {
        // A collection removes a file that is left behind.
        let _ = self.dir.remove(&*self.name);
    }
}

/// Finds the lock files that killed processes have left in the directory `locks`, and removes these
/// files if `remove` is set. Returns the number of files found.
///
/// # Errors
/// Errors of the file system.
pub fn free_locks(locks: &Path, remove: bool) -> Result<u64> {
    let dir = match Dir::open(locks) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
        opened => opened.during("open directory", locks.display())?,
    };
    let mut found = 0;
    for Entry { name, .. } in dir.entries().during("list", locks.display())? {
        if name.parse::<Digest>().is_err() {
            continue;
        }
        let lock = Lock::try_existing(&dir, &name);
        let Some(_lock) = lock.during("lock", locks.join(&name).display())? else {
            continue;
        };
        if remove {
            let removed = dir.remove(&*name);
            removed.during("remove", locks.join(&name).display())?;
        }
        found += 1;
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use cas_core::progress::Silent;
    use tempfile::TempDir;

    use super::*;

    fn count(temp: &TempDir) -> usize {
        std::fs::read_dir(temp.path()).unwrap().count()
    }

    #[tokio::test]
    async fn files_of_free_locks_are_found_and_removed() {
        let temp = tempfile::tempdir().unwrap();
        assert_eq!(free_locks(&temp.path().join("absent"), true).unwrap(), 0);
        let [held, killed, also] =
            ["held", "killed", "also"].map(|one| Digest::sha256(one.as_bytes()));
        let lock = ChainLock::wait(temp.path(), &held, &Silent).await.unwrap();
        for digest in [killed, also] {
            std::fs::write(temp.path().join(digest.to_string()), "").unwrap();
        }
        std::fs::create_dir(temp.path().join("foreign")).unwrap();
        assert_eq!(free_locks(temp.path(), false).unwrap(), 2);
        assert_eq!(count(&temp), 4);
        assert_eq!(free_locks(temp.path(), true).unwrap(), 2);
        assert_eq!(free_locks(temp.path(), true).unwrap(), 0);
        assert_eq!(count(&temp), 2, "the held one and what is not ours");
        drop(lock);
        assert_eq!(count(&temp), 1);
    }
}
