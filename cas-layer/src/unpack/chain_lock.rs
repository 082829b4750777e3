//! A lock per chain ID: one process makes a snapshot, others that need it wait.

use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::time::Duration;

use cas_core::progress::Progress;
use cas_core::{Context, Digest, Result};
use cas_host::{Dir, Lock};

/// Time between two attempts to take the lock.
const INTERVAL: Duration = Duration::from_millis(20);

/// The lock of one chain ID. It is released when it is dropped, or when the process ends.
pub(super) struct ChainLock {
    dir: Dir,
    name: String,
    _lock: Lock,
}

impl ChainLock {
    /// Waits for the lock of the snapshot `chain_id`.
    ///
    /// # Errors
    /// Errors of the file system.
    pub(super) async fn wait(
        locks: &Path,
        chain_id: &Digest,
        progress: &dyn Progress,
    ) -> Result<Self> {
        let made = DirBuilder::new().recursive(true).mode(0o700).create(locks);
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
                progress.warn(&format!("waiting for another unpack of {short} to end"));
            }
            tokio::time::sleep(INTERVAL).await;
        }
    }
}

impl Drop for ChainLock {
    fn drop(&mut self) {
        // A file that is left behind does no harm.
        let _ = self.dir.remove(&*self.name);
    }
}
