//! From an ingest to a blob: sync the bytes, rename, sync the directory.

use std::mem;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cas_core::{Algorithm, Digest, Error, Result, pool};
use cas_host::Existing;
use rustix::fs::Mode;
use tokio::sync::oneshot;

use crate::blobs::Name;
use crate::ingest::Staged;
use crate::shared::Shared;

/// Most publishes that share one sync of the directory, so that the first is not kept long.
const GROUP: usize = 64;

/// An ingest that is to become a blob.
pub(crate) struct Pending {
    pub(crate) staged: Staged,
    pub(crate) digest: Digest,
    pub(crate) size: u64,
}

type Waiting = (Pending, oneshot::Sender<Result<()>>);

/// Publishes that wait for one another's syncs.
#[derive(Default)]
pub(crate) struct Group {
    queue: Mutex<Queue>,
    /// After a failed sync of directories nobody knows what is on disk.
    failed: AtomicBool,
}

#[derive(Default)]
struct Queue {
    waiting: Vec<Waiting>,
    led: bool,
}

impl Group {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
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
        let (done, mut outcome) = oneshot::channel();
        let led = {
            let mut queue = self.group.lock();
            queue.waiting.push((pending, done));
            queue.led
        };
        let ended = |_| Error::cancelled("the group ended before this publish");
        if !led {
            let shared = Arc::clone(&self);
            let lead = pool::run(move || {
                shared.lead();
                Ok(())
            });
            tokio::select! {
                biased;
                done = &mut outcome => return done.map_err(ended)?,
                led = lead => led?,
            }
        }
        outcome.await.map_err(ended)?
    }

    /// Publishes group after group until nobody waits, unless another thread does. Only a thread
    /// that is at work leads: one that is promised may be waited for by all that there are.
    fn lead(&self) {
        if mem::replace(&mut self.group.lock().led, true) {
            return;
        }
        loop {
            let group: Vec<Waiting> = {
                let mut queue = self.group.lock();
                let size = queue.waiting.len().min(GROUP);
                queue.led = size > 0;
                queue.waiting.drain(..size).collect()
            };
            if group.is_empty() {
                return;
            }
            self.publish_group(group);
        }
    }

    /// The data of all, then the names of all, then each directory once.
    fn publish_group(&self, group: Vec<Waiting>) {
        let mut outcomes: Vec<Result<()>> =
            group.iter().map(|(one, _)| self.sync_data(one)).collect();
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
        for ((one, done), outcome) in group.into_iter().zip(outcomes) {
            let outcome = outcome.and_then(|()| one.staged.forget(self.ingests()?));
            // Who no longer waits has it all the same.
            let _ = done.send(outcome);
        }
    }

    fn sync_data(&self, pending: &Pending) -> Result<()> {
        self.check_synced()?;
        set_mode(pending)?;
        pending.staged.file.sync_data().map_err(|error| {
            // The kernel has dropped the dirty pages: a second sync would say yes to lost bytes.
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
