//! Publishes that are under way.

use std::sync::atomic::{AtomicBool, Ordering};

use cas_core::group::Queue;
use cas_core::{Digest, Error, Result};
use tokio::sync::oneshot;

use crate::staging::Staged;

/// An ingest that is being published.
pub(crate) struct Pending {
    pub(crate) staged: Staged,
    pub(crate) digest: Digest,
    pub(crate) size: u64,
}

/// A publish, and the channel for its outcome.
pub(crate) type Waiting = (Pending, oneshot::Sender<Result<()>>);

/// The publishes that share their syncs, and whether a sync has failed.
#[derive(Default)]
pub(crate) struct Publishes {
    pub(crate) queue: Queue<Waiting>,
    /// Whether a sync of directories or a flush has failed. It is then unknown what is on disk.
    failed: AtomicBool,
}

impl Publishes {
    /// Runs a sync. After a sync has failed, all further calls fail: the kernel reports a failure
    /// only once, so a later sync would succeed although bytes are lost.
    pub(crate) fn sync_once(&self, sync: impl FnOnce() -> Result<()>) -> Result<()> {
        self.check_synced()?;
        sync().inspect_err(|_| self.failed.store(true, Ordering::Release))
    }

    pub(crate) fn check_synced(&self) -> Result<()> {
        if self.failed.load(Ordering::Acquire) {
            return Err(Error::precondition(
                "an earlier sync failed; check the device and reopen the store",
            ));
        }
        Ok(())
    }
}
