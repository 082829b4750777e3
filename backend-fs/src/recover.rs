//! The first opening after the machine started: what the last run of the kernel left undone.
//!
//! A process that dies leaves whole blobs and ingests that go on. Only a kernel that dies loses
//! bytes: those of ingests, and those of blobs that were published without a sync, whose
//! publishers left a note under `unsynced/`.

use std::time::SystemTime;

use cas_core::{Digest, Result};
use cas_host::{Dir, Lock};

use crate::blobs::Blobs;
use crate::ingest::{clean, time};
use crate::shared::hashes_to;

const BOOT: &str = "boot";
const NOTES: &str = "unsynced";
const PAGE: usize = 1024;

/// Cleans up where the last opening was in another run of the kernel; when the first of this one
/// was.
pub(crate) fn begin(ours: &Dir, blobs: &Blobs, boot: &str) -> Result<SystemTime> {
    let _lock = Lock::exclusive(ours, "lock")?;
    if ours.read(BOOT, 64)?.as_deref() != Some(boot.as_bytes()) {
        clean(&ours.open_dir("ingest")?, boot)?;
        check_unsynced(ours, blobs)?;
        ours.replace(BOOT, boot.as_bytes(), 0o600, (ours, "boot.new"))?;
    }
    let stat = ours.stat(BOOT)?;
    Ok(stat.map_or_else(SystemTime::now, |stat| {
        time(stat.st_mtime, stat.st_mtime_nsec)
    }))
}

/// Removes the blobs that a power loss made wrong, where any may be.
fn check_unsynced(ours: &Dir, blobs: &Blobs) -> Result<()> {
    let notes = ours.make_dir(NOTES, 0o700)?;
    let names = names(&notes)?;
    if names.is_empty() {
        return Ok(());
    }
    let mut after: Option<Digest> = None;
    loop {
        let page = blobs.list(after.as_ref(), PAGE)?;
        for stat in &page {
            if let Some((file, _)) = blobs.open_blob(&stat.digest)?
                && !hashes_to(&file, &stat.digest)?
            {
                tracing::warn!(digest = %stat.digest, "a power loss damaged this blob; removed");
                blobs.remove(&stat.digest, stat.version)?;
            }
        }
        match page.get(PAGE - 1) {
            Some(last) => after = Some(last.digest),
            None => break,
        }
    }
    // Or the notes may be gone after the next power loss, and the blobs not.
    blobs.sync()?;
    for name in &names {
        notes.remove(&**name)?;
    }
    Ok(())
}

/// The note that one open store has published without a sync; locked while the store is open.
pub(crate) struct Unsynced {
    name: String,
    _lock: Lock,
}

impl Unsynced {
    /// Writes the note.
    pub(crate) fn note(ours: &Dir, boot: &str) -> Result<Self> {
        static COUNT: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);
        let number = COUNT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let name = format!("{boot}-{}-{number}", std::process::id());
        let notes = ours.make_dir(NOTES, 0o700)?;
        let lock = Lock::exclusive(&notes, &name)?;
        notes.sync()?;
        Ok(Unsynced { name, _lock: lock })
    }
}

/// The notes that are there before a sync.
pub(crate) struct Notes {
    dir: Dir,
    /// Each with its lock where whoever wrote it is gone.
    found: Vec<(String, Option<Lock>)>,
}

impl Notes {
    /// Looks for them.
    pub(crate) fn find(ours: &Dir) -> Result<Self> {
        let dir = ours.make_dir(NOTES, 0o700)?;
        let mut found = Vec::new();
        for name in names(&dir)? {
            let lock = Lock::try_exclusive(&dir, &name)?;
            found.push((name, lock));
        }
        Ok(Notes { dir, found })
    }

    /// Whether nobody has published without a sync.
    pub(crate) fn is_empty(&self) -> bool {
        self.found.is_empty()
    }

    /// Removes, after the sync, `own` and those whose writers are gone; the others publish on.
    pub(crate) fn settle(self, own: Option<Unsynced>) -> Result<()> {
        let gone = self.found.iter().filter(|(_, lock)| lock.is_some());
        let own = own.iter().map(|own| &own.name);
        for name in gone.map(|(name, _)| name).chain(own) {
            self.dir.remove(&**name)?;
        }
        Ok(())
    }
}

fn names(dir: &Dir) -> Result<Vec<String>> {
    let names = dir.entries()?.map(|entry| entry.map(|entry| entry.name));
    Ok(names.collect::<Result<_, _>>()?)
}
