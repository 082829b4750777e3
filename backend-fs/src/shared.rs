//! What the handles of one open store have in common.

use std::fs::File;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use cas_core::content::Version;
use cas_core::{Context, Digest, Error, Hasher, Result};
use cas_host::{Dir, Lock, syncfs};

use crate::blobs::Blobs;
use crate::ingest::time;
use crate::layout::Layout;
use crate::publish::Group;
use crate::reader;
use crate::recover::{self, Notes, Unsynced};

/// Piece in which a doubtful blob is read.
const PIECE: usize = 1 << 20;

/// The open directories of a store and what goes on in them.
pub(crate) struct Shared {
    pub(crate) layout: Layout,
    pub(crate) blobs: Blobs,
    /// Absent where the store cannot be written.
    ingest: Option<Dir>,
    /// This run of the kernel.
    pub(crate) boot: String,
    /// When the store was opened first in it.
    began: SystemTime,
    pub(crate) group: Group,
    unsynced: Mutex<Option<Unsynced>>,
}

impl Shared {
    /// Opens what is inside of `layout`, after what a crash needs.
    pub(crate) fn open(layout: Layout) -> Result<Self> {
        let blobs = Blobs::open(layout.root.open_dir("blobs")?)?;
        let boot = cas_host::boot_id()?;
        let ours = layout.ours.as_ref().filter(|_| layout.writable);
        let (ingest, began) = match ours {
            None => (None, SystemTime::now()),
            Some(ours) => {
                let ingest = ours.make_dir("ingest", 0o700)?;
                (Some(ingest), recover::begin(ours, &blobs, &boot)?)
            }
        };
        Ok(Shared {
            layout,
            blobs,
            ingest,
            boot,
            began,
            group: Group::default(),
            unsynced: Mutex::new(None),
        })
    }

    /// `.cas/`, to write in.
    pub(crate) fn ours(&self) -> Result<&Dir> {
        let ours = self.layout.ours.as_ref();
        ours.filter(|_| self.layout.writable).ok_or_else(read_only)
    }

    /// `.cas/ingest/`, to write in.
    pub(crate) fn ingests(&self) -> Result<&Dir> {
        self.ingest.as_ref().ok_or_else(read_only)
    }

    /// Removes versions of blobs; how many were there.
    pub(crate) fn remove(&self, blobs: &[(Digest, Version)]) -> Result<usize> {
        let alone = self.removals();
        let _alone = alone.map_err(|error| error.operation("remove blobs"))?;
        let mut removed = 0;
        for (digest, version) in blobs {
            let gone = self.blobs.remove(digest, *version);
            removed += usize::from(gone.during("remove", digest)?);
        }
        Ok(removed)
    }

    /// The lock without which no name of a blob is taken away, in this process or another.
    pub(crate) fn removals(&self) -> Result<Lock> {
        Ok(Lock::exclusive(self.ours()?, "remove.lock")?)
    }

    /// The blob under its name when it is what the name says. A blob from before this run of the
    /// kernel is hashed: a power loss may have left the right size and the wrong bytes.
    pub(crate) fn intact(&self, digest: &Digest, size: u64) -> Result<Option<File>> {
        let Some(stat) = self.blobs.status(digest)? else {
            return Ok(None);
        };
        let Some((file, found)) = self.blobs.open_blob(digest)? else {
            return Ok(None);
        };
        let changed = time(stat.st_ctime, stat.st_ctime_nsec);
        let good = found == size && (changed >= self.began || hashes_to(&file, digest)?);
        Ok(good.then_some(file))
    }

    /// Remembers on disk that blobs are not synced, before the first of them; no flush ends
    /// while the guard is held.
    pub(crate) fn note_unsynced(&self) -> Result<MutexGuard<'_, Option<Unsynced>>> {
        let mut unsynced = self.unsynced();
        if unsynced.is_none() {
            *unsynced = Some(Unsynced::note(self.ours()?, &self.boot)?);
        }
        Ok(unsynced)
    }

    /// Syncs what is there: what was published without a sync, here or by others, and what
    /// another process is about to sync.
    pub(crate) fn flush(&self) -> Result<()> {
        // What cannot be written has nothing to sync.
        let Ok(ours) = self.ours() else { return Ok(()) };
        let mut unsynced = self.unsynced();
        let notes = Notes::find(ours)?;
        self.sync_once(|| match notes.is_empty() {
            true => Ok(self.blobs.sync()?),
            false => syncfs(&self.layout.root),
        })?;
        notes.settle(unsynced.take())
    }

    fn unsynced(&self) -> MutexGuard<'_, Option<Unsynced>> {
        self.unsynced.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether the bytes of `file` are those of `digest`.
pub(crate) fn hashes_to(file: &File, digest: &Digest) -> Result<bool> {
    let mut hasher = Hasher::new(digest.algorithm());
    let mut at = 0;
    loop {
        let piece = reader::read(file, at, PIECE)?;
        if piece.is_empty() {
            return Ok(hasher.finish() == *digest);
        }
        at += piece.len() as u64;
        hasher.update(&piece);
    }
}

fn read_only() -> Error {
    Error::new(
        cas_core::ErrorKind::Denied,
        "the store was opened where it cannot be written",
    )
}
