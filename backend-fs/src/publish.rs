//! Publishing an ingest as a blob: sync the bytes, rename the file, sync the directory.

use std::ffi::CString;
use std::io;
use std::sync::Arc;

use cas_core::group::{self, Answer, Grouped, Queue};
use cas_core::{Algorithm, Error, Result};
use cas_host::{Dir, Existing, check_written, syncfs};
use rustix::fs::{FileType, Mode, Stat};
use tokio::sync::oneshot;

use crate::blob_name::BlobName;
use crate::pending::{Pending, Waiting};
use crate::places::CAS_DIR;
use crate::shared::Shared;

/// Maximum number of publishes that share their syncs, to bound the latency of the first.
const GROUP: u64 = 256;
/// Minimum number of files for which one sync of the file system is cheaper than one sync of each:
/// see `docs/decisions/0013`.
const SYNCFS_FROM: usize = 8;

/// Whether the bytes of an ingest are on disk when its file gets the name of the blob.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Bytes {
    Synced,
    Unsynced,
}

impl Grouped for Shared {
    type Job = Waiting;
    const MOST: u64 = GROUP;

    fn queue(&self) -> &Queue<Waiting> {
        &self.publishes.queue
    }

    fn weight(_: &Waiting) -> u64 {
        1
    }

    /// Syncs the bytes of all ingests, then renames those whose sync succeeded, then syncs each
    /// directory once.
    fn make(&self, group: Vec<Waiting>) -> Vec<Answer> {
        let mut outcomes = self.sync_group(&group);
        for ((one, _), outcome) in group.iter().zip(&mut outcomes) {
            if outcome.is_ok() {
                *outcome = self.rename(one, Bytes::Synced);
            }
        }
        for algorithm in Algorithm::ALL {
            let mut renamed = group
                .iter()
                .zip(&mut outcomes)
                .filter(|((one, _), outcome)| {
                    outcome.is_ok() && one.digest.algorithm() == algorithm
                })
                .peekable();
            if renamed.peek().is_none() {
                continue;
            }
            if let Err(error) = self.sync_names(algorithm) {
                renamed.for_each(|(_, outcome)| {
                    *outcome = Err(Error::new(error.kind(), error.to_string()));
                });
            }
        }
        let answers = group
            .into_iter()
            .zip(outcomes)
            .map(|((one, done), outcome)| {
                let outcome = outcome.and_then(|()| one.staged.remove_key_file(self.ingest_dir()?));
                Box::new(move || {
                    // A caller that no longer waits needs no answer.
                    let _ = done.send(outcome);
                }) as Answer
            });
        answers.collect()
    }
}

impl Shared {
    /// Publishes an ingest, and syncs its bytes and its name.
    pub(crate) fn publish(&self, pending: &Pending) -> Result<()> {
        self.sync_data(pending)?;
        self.rename(pending, Bytes::Synced)?;
        self.sync_names(pending.digest.algorithm())?;
        pending.staged.remove_key_file(self.ingest_dir()?)
    }

    /// Publishes without a sync. [`crate::recover`] checks the bytes after a power loss.
    pub(crate) fn publish_unsynced(&self, pending: &Pending) -> Result<()> {
        set_mode(pending)?;
        // Held until the rename is done, because a flush before the rename would remove the marker.
        let _marked = self.mark_unsynced()?;
        self.rename(pending, Bytes::Unsynced)?;
        pending.staged.remove_key_file(self.ingest_dir()?)
    }

    /// Publishes in a group with other publishes that are under way.
    pub(crate) async fn publish_in_group(self: Arc<Self>, pending: Pending) -> Result<()> {
        let (done, outcome) = oneshot::channel();
        group::join(&self, (pending, done), outcome).await?
    }

    fn sync_data(&self, pending: &Pending) -> Result<()> {
        self.publishes.check_synced()?;
        set_mode(pending)?;
        self.discard_unless_synced(pending, pending.staged.file.sync_data())
    }

    /// Syncs the bytes of all ingests: with one sync of the whole file system, or file by file if
    /// the ingests are few or that sync fails. Returns the outcome for each ingest.
    fn sync_group(&self, group: &[Waiting]) -> Vec<Result<()>> {
        let all = || group.iter().map(|(one, _)| one);
        if group.len() < SYNCFS_FROM || self.sync_together(all()).is_err() {
            // The sync of a file fails if its bytes are lost, even if another sync failed first.
            return all().map(|one| self.sync_data(one)).collect();
        }
        let written =
            |one: &Pending| self.discard_unless_synced(one, check_written(&*one.staged.file));
        all().map(written).collect()
    }

    fn sync_together<'a>(&self, mut all: impl Iterator<Item = &'a Pending>) -> Result<()> {
        self.publishes.check_synced()?;
        all.try_for_each(set_mode)?;
        syncfs(&self.layout.root)
    }

    /// Removes the ingest if its sync failed. The kernel has then dropped the dirty pages, and a
    /// second sync would succeed although the bytes are lost.
    fn discard_unless_synced(&self, pending: &Pending, synced: io::Result<()>) -> Result<()> {
        synced.map_err(|error| {
            let _ = self.ingest_dir().map(|dir| pending.staged.remove(dir));
            error.into()
        })
    }

    /// Renames the ingest to the name of its digest. If an intact blob already has that name, keeps
    /// the blob and removes the ingest.
    fn rename(&self, pending: &Pending, bytes: Bytes) -> Result<()> {
        let ingests = self.ingest_dir()?;
        let name = BlobName::of(&pending.digest);
        let blobs = self.blobs.directory_for(pending.digest.algorithm())?;
        let staged = CString::new(&*pending.staged.name).map_err(|_| {
            Error::internal("the name of an ingest has a zero byte; please report it")
        })?;
        if ingests.rename_new(&*staged, blobs, name.as_c_str())? == Existing::Nothing {
            return Ok(());
        }
        let mut lock = None;
        let mut found = self.open_intact(&pending.digest, pending.size)?;
        if found.is_none() {
            // Another publish may replace the damaged blob before the lock is taken. Its bytes may
            // be synced, unlike these, so the blob is then checked again.
            lock = Some(self.lock_removals()?);
            found = self.open_intact(&pending.digest, pending.size)?;
        }
        // The blob may have been published without a sync, here or by another program. If it cannot
        // be synced, its bytes may be lost, so the ingest replaces it.
        if found.is_some_and(|file| bytes == Bytes::Unsynced || file.sync_data().is_ok()) {
            ingests.remove(&*staged)?;
            return Ok(());
        }
        let _lock = match lock {
            Some(lock) => lock,
            None => self.lock_removals()?,
        };
        self.clear_directory(blobs, &pending.digest.hex())?;
        Ok(ingests.rename(&*staged, blobs, name.as_c_str())?)
    }

    /// Removes a directory that is in the place of a blob, because a file cannot replace it. Moves
    /// a directory that is not empty to `.cas/`. The caller holds the lock on removals. A kill or a
    /// loss of power leaves the directory in one of the two places, and the blob missing.
    fn clear_directory(&self, blobs: &Dir, name: &str) -> Result<()> {
        let is_directory =
            |stat: Stat| FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
        if !blobs.stat(name)?.is_some_and(is_directory) || blobs.remove_dir(name)? {
            return Ok(());
        }
        let aside = blobs.set_aside_into(self.cas_dir()?, name)?;
        tracing::warn!(
            "a directory was in the place of the blob {name}; it was moved to {CAS_DIR}/{}",
            aside.unwrap_or_default()
        );
        Ok(())
    }

    fn sync_names(&self, algorithm: Algorithm) -> Result<()> {
        self.publishes
            .sync_once(|| Ok(self.blobs.sync_names(algorithm)?))
    }
}

/// Makes the file read-only, because blobs are immutable, and readable for all, because skopeo and
/// umoci may run as other users.
fn set_mode(pending: &Pending) -> Result<()> {
    cas_host::calls::fchmod(&*pending.staged.file, Mode::from_raw_mode(0o444))
        .map_err(|error| io::Error::from(error).into())
}
