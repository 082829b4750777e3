//! From an ingest to a blob: sync the bytes, rename, sync the directory.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use cas_core::group::{self, Answer, Grouped, Queue};
use cas_core::{Algorithm, Digest, Error, Result};
use cas_host::{Existing, check_written, syncfs};
use rustix::fs::Mode;
use tokio::sync::oneshot;

use crate::blobs::Name;
use crate::ingest::Staged;
use crate::shared::Shared;

/// Most publishes that share their syncs, so that the first is not kept long.
const GROUP: u64 = 256;
/// From so many on one sync of the file system costs less than one of each file: see
/// `docs/decisions/0013`.
const MANY: usize = 8;

/// An ingest that is to become a blob.
pub(crate) struct Pending {
    pub(crate) staged: Staged,
    pub(crate) digest: Digest,
    pub(crate) size: u64,
}

/// A publish and whoever waits for it.
pub(crate) type Waiting = (Pending, oneshot::Sender<Result<()>>);

/// Publishes that wait for one another's syncs.
#[derive(Default)]
pub(crate) struct Group {
    queue: Queue<Waiting>,
    /// After a failed sync of directories nobody knows what is on disk.
    failed: AtomicBool,
}

impl Grouped for Shared {
    type Job = Waiting;
    const MOST: u64 = GROUP;

    fn queue(&self) -> &Queue<Waiting> {
        &self.group.queue
    }

    fn weight(_: &Waiting) -> u64 {
        1
    }

    /// The data of all, then the names of all, then each directory once.
    fn make(&self, group: Vec<Waiting>) -> Vec<Answer> {
        let mut outcomes = self.sync_group(&group);
        for ((one, _), outcome) in group.iter().zip(&mut outcomes) {
            if outcome.is_ok() {
                *outcome = self.name(one, true);
            }
        }
        for algorithm in Algorithm::ALL {
            let mut named = group
                .iter()
                .zip(&mut outcomes)
                .filter(|((one, _), outcome)| {
                    outcome.is_ok() && one.digest.algorithm() == algorithm
                })
                .peekable();
            if named.peek().is_none() {
                continue;
            }
            if let Err(error) = self.sync_names(algorithm) {
                named.for_each(|(_, outcome)| {
                    *outcome = Err(Error::new(error.kind(), error.to_string()));
                });
            }
        }
        let settled = group
            .into_iter()
            .zip(outcomes)
            .map(|((one, done), outcome)| {
                let outcome = outcome.and_then(|()| one.staged.forget(self.ingests()?));
                Box::new(move || {
                    // Who no longer waits has it all the same.
                    let _ = done.send(outcome);
                }) as Answer
            });
        settled.collect()
    }
}

impl Shared {
    /// Publishes with all syncs.
    pub(crate) fn publish(&self, pending: &Pending) -> Result<()> {
        self.sync_data(pending)?;
        self.name(pending, true)?;
        self.sync_names(pending.digest.algorithm())?;
        pending.staged.forget(self.ingests()?)
    }

    /// Publishes without a sync; [`crate::recover`] checks the bytes after a power loss.
    pub(crate) fn publish_unsynced(&self, pending: &Pending) -> Result<()> {
        set_mode(pending)?;
        // Held until the bytes have their name: a flush in between would take the note away.
        let _noted = self.note_unsynced()?;
        self.name(pending, false)?;
        pending.staged.forget(self.ingests()?)
    }

    /// Publishes together with whoever else is publishing now.
    pub(crate) async fn publish_with_others(self: Arc<Self>, pending: Pending) -> Result<()> {
        let (done, outcome) = oneshot::channel();
        group::join(&self, (pending, done), outcome).await?
    }

    fn sync_data(&self, pending: &Pending) -> Result<()> {
        self.check_synced()?;
        set_mode(pending)?;
        self.settle(pending, pending.staged.file.sync_data())
    }

    /// Syncs the bytes of all: one by one where they are few, else with the whole file system.
    fn sync_group(&self, group: &[Waiting]) -> Vec<Result<()>> {
        let all = || group.iter().map(|(one, _)| one);
        if group.len() < MANY || self.sync_together(all()).is_err() {
            // A file whose bytes are lost says so itself, whichever sync found that out first.
            return all().map(|one| self.sync_data(one)).collect();
        }
        let written = |one: &Pending| self.settle(one, check_written(&*one.staged.file));
        all().map(written).collect()
    }

    fn sync_together<'a>(&self, mut all: impl Iterator<Item = &'a Pending>) -> Result<()> {
        self.check_synced()?;
        all.try_for_each(set_mode)?;
        syncfs(&self.layout.root)
    }

    /// After a failed sync the kernel has dropped the dirty pages, and a second would say yes to
    /// lost bytes.
    fn settle(&self, pending: &Pending, synced: std::io::Result<()>) -> Result<()> {
        synced.map_err(|error| {
            let _ = self.ingests().map(|dir| pending.staged.remove(dir));
            error.into()
        })
    }

    /// Gives the bytes the name of their digest, which what is there already keeps when it is good.
    fn name(&self, pending: &Pending, synced: bool) -> Result<()> {
        let ingests = self.ingests()?;
        let name = Name::of(&pending.digest);
        let blobs = self.blobs.directory_for(pending.digest.algorithm())?;
        let staged = std::ffi::CString::new(&*pending.staged.name)
            .map_err(|_| Error::internal("the name of an ingest has a zero byte"))?;
        if ingests.rename_new(&*staged, blobs, name.as_c_str())? == Existing::Nothing {
            return Ok(());
        }
        match self.intact(&pending.digest, pending.size)? {
            // It may have been published without a sync, or by a program that makes none. Where
            // that sync fails its bytes may be lost, and ours are on disk.
            Some(file) if !synced || file.sync_data().is_ok() => {
                ingests.remove(&*staged)?;
                Ok(())
            }
            _ => {
                let _alone = self.removals()?;
                Ok(ingests.rename(&*staged, blobs, name.as_c_str())?)
            }
        }
    }

    fn sync_names(&self, algorithm: Algorithm) -> Result<()> {
        self.sync_once(|| Ok(self.blobs.sync_names(algorithm)?))
    }

    /// The kernel tells a failure once and then says yes, so that the first is final.
    pub(crate) fn sync_once(&self, sync: impl FnOnce() -> Result<()>) -> Result<()> {
        self.check_synced()?;
        sync().inspect_err(|_| self.group.failed.store(true, Ordering::Release))
    }

    fn check_synced(&self) -> Result<()> {
        match self.group.failed.load(Ordering::Acquire) {
            false => Ok(()),
            true => Err(Error::precondition(
                "an earlier sync failed; check the device and open the store anew",
            )),
        }
    }
}

/// Blobs are never written again, and skopeo and umoci may run as others.
fn set_mode(pending: &Pending) -> Result<()> {
    rustix::fs::fchmod(&*pending.staged.file, Mode::from_raw_mode(0o444))
        .map_err(|error| std::io::Error::from(error).into())
}
