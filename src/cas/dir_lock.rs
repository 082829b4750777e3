//! Waiting for the lock of a directory.

use std::path::Path;
use std::time::Duration;

use cas_core::{Context, Result};
use cas_host::DirLock;
use cas_host::calls::undisturbed;

/// Time between two attempts to take the lock.
const INTERVAL: Duration = Duration::from_millis(5);

/// Waits until no other job has locked the directory `path`, and locks it. Returns the lock, or
/// `None` if the directory is absent.
///
/// # Errors
/// Errors of the file system.
pub(super) async fn lock(path: &Path) -> Result<Option<DirLock>> {
    loop {
        let locked = DirLock::try_new(path).during("lock", path.display())?;
        if locked.is_some() || undisturbed(|| path.symlink_metadata()).is_err() {
            return Ok(locked);
        }
        tokio::time::sleep(INTERVAL).await;
    }
}
