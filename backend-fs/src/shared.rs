//! The state that all handles of one open store share.

use std::fs::File;
use std::io;
use std::path::{self, Path};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::SystemTime;

use cas_core::content::Version;
use cas_core::sync::lock;
use cas_core::{Context, Digest, Error, Result};
use cas_host::{Dir, Lock, Reserve, syncfs};

use crate::blobs::Blobs;
use crate::facts::KnownFacts;
use crate::layout::Layout;
use crate::pending::Publishes;
use crate::places::{BLOBS, blobs_lost, explain};
use crate::reader::hashes_to;
use crate::recover::recover;
use crate::time;
use crate::unsynced::{Marker, Markers};

/// The open directories of a store, and the publishes that are under way.
pub(crate) struct Shared {
    /// The path of the layout.
    pub(crate) path: Arc<Path>,
    pub(crate) layout: Layout,
    pub(crate) blobs: Blobs,
    /// `None` if the store is read-only.
    ingest: Option<Dir>,
    /// The ID of this boot.
    pub(crate) boot: String,
    /// When the store was first opened for writing in this boot, or the time of this opening if
    /// the store is read-only.
    began: SystemTime,
    pub(crate) publishes: Publishes,
    /// Facts about the content of entries of `index.json`.
    pub(crate) facts: KnownFacts,
    marker: Mutex<Option<Marker>>,
}

impl Shared {
    /// Opens the directories in `layout`, which is at `path`. If the store is writable, recovers
    /// from a crash.
    pub(crate) fn open(layout: Layout, path: &Path) -> Result<Self> {
        let blobs = match layout.root.open_dir(BLOBS) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(blobs_lost()),
            blobs => Blobs::new(blobs?),
        };
        let boot = cas_host::boot_id()?;
        let cas_dir = layout.cas_dir.as_ref().filter(|_| layout.writable);
        let (ingest, began) = match cas_dir {
            None => (None, SystemTime::now()),
            Some(cas_dir) => {
                let ingest = cas_dir.make_dir("ingest", 0o700)?;
                (Some(ingest), recover(cas_dir, &blobs, &boot)?)
            }
        };
        Ok(Shared {
            path: path::absolute(path)?.into(),
            layout,
            blobs,
            ingest,
            boot,
            began,
            publishes: Publishes::default(),
            facts: KnownFacts::default(),
            marker: Mutex::new(None),
        })
    }

    /// Returns an error that names a misplaced entry of the store, if there is one and it may have
    /// caused `error`. Otherwise returns `error`.
    pub(crate) fn explain(&self, error: Error) -> Error {
        explain(&self.layout.root, error)
    }

    /// Returns `.cas/` for writing.
    pub(crate) fn cas_dir(&self) -> Result<&Dir> {
        let cas_dir = self.layout.cas_dir.as_ref();
        cas_dir
            .filter(|_| self.layout.writable)
            .ok_or_else(Error::read_only)
    }

    /// Returns `.cas/ingest/` for writing.
    pub(crate) fn ingest_dir(&self) -> Result<&Dir> {
        self.ingest.as_ref().ok_or_else(Error::read_only)
    }

    /// Removes versions of blobs. Returns how many of them existed.
    pub(crate) fn remove(&self, blobs: &[(Digest, Version)]) -> Result<usize> {
        let lock = self.lock_removals();
        let _lock = lock.map_err(|error| error.operation("remove blobs"))?;
        let mut removed = 0;
        for (digest, version) in blobs {
            let found = self.blobs.remove(digest, *version);
            removed += usize::from(found.during("remove", digest)?);
        }
        Ok(removed)
    }

    /// Waits for the lock on removals and takes it. A process holds this lock while it removes or
    /// replaces a blob. Only recovery does not. The first call creates the lock file. If the disk
    /// is too full for that, the call removes the file `reserve` to free space, and makes it again
    /// afterwards.
    pub(crate) fn lock_removals(&self) -> Result<Lock> {
        let dir = self.cas_dir()?;
        let lock = Reserve(dir).remove_with(|| Ok(Lock::exclusive(dir, "remove.lock")?));
        lock.map_err(|error| self.explain(error))
    }

    /// Opens the stored blob. Returns `None` if the blob is absent or has another size than `size`.
    /// A power loss before this boot may have left the right size and wrong bytes in any blob that
    /// was stored before this boot. So this function also hashes each blob whose time of change
    /// (ctime) is before the first opening of the store for writing in this boot, and returns
    /// `None` if the digest differs.
    pub(crate) fn open_intact(&self, digest: &Digest, size: u64) -> Result<Option<File>> {
        let Some(stat) = self.blobs.status(digest)? else {
            return Ok(None);
        };
        let Some((file, found)) = self.blobs.open_blob(digest)? else {
            return Ok(None);
        };
        let recent = time::changed(&stat) >= self.began;
        let intact = found == size && (recent || hashes_to(&file, digest)?);
        Ok(intact.then_some(file))
    }

    /// Writes the marker of this open store, if it is not written yet. The caller does this before
    /// it publishes a blob without a sync. A flush of this open store waits until the returned
    /// guard is dropped.
    pub(crate) fn mark_unsynced(&self) -> Result<MutexGuard<'_, Option<Marker>>> {
        let mut marker = lock(&self.marker);
        if marker.is_none() {
            let written = Marker::write(self.cas_dir()?, &self.boot);
            *marker = Some(written.map_err(|error| self.explain(error))?);
        }
        Ok(marker)
    }

    /// Flushes the store if a process that wrote a marker has ended without a flush. This removes
    /// its marker.
    pub(crate) fn flush_for_ended(&self) -> Result<()> {
        let Ok(cas_dir) = self.cas_dir() else {
            return Ok(());
        };
        // The markers stay locked only in this statement, because the flush locks them, too.
        let has_ended = Markers::find(cas_dir).map(|markers| markers.has_ended());
        match has_ended.map_err(|error| self.explain(error))? {
            true => self.flush(),
            false => Ok(()),
        }
    }

    /// Syncs all blobs that are published. This or another process has published some of them
    /// without a sync. Others are from processes that have published them, but not synced their
    /// names yet.
    pub(crate) fn flush(&self) -> Result<()> {
        // A read-only store has nothing to sync.
        let Ok(cas_dir) = self.cas_dir() else {
            return Ok(());
        };
        let mut marker = lock(&self.marker);
        let markers = Markers::find(cas_dir).map_err(|error| self.explain(error))?;
        self.publishes.sync_once(|| {
            if markers.is_empty() {
                Ok(self.blobs.sync()?)
            } else {
                syncfs(&self.layout.root)
            }
        })?;
        markers.remove_synced(marker.take())
    }
}
