//! The first opening after the machine started: what the last run of the kernel left undone.
//!
//! A process that dies leaves whole blobs and ingests that go on. Only a kernel that dies loses
//! bytes: those of ingests, and those of blobs that were published without a sync, whose
//! publishers left a note under `unsynced/`.

use std::time::SystemTime;

use cas_core::{Digest, Result};
use cas_host::{Dir, Lock};
use rustix::fs::OFlags;

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
    let names: Vec<String> = notes
        .entries()?
        .map(|entry| entry.map(|entry| entry.name))
        .collect::<Result<_, _>>()?;
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
                blobs.remove(&stat.digest)?;
            }
        }
        match page.get(PAGE - 1) {
            Some(last) => after = Some(last.digest),
            None => break,
        }
    }
    for name in &names {
        notes.remove(&**name)?;
    }
    Ok(())
}

/// The note that one open store has published without a sync.
pub(crate) struct Unsynced(String);

impl Unsynced {
    /// Writes the note.
    pub(crate) fn note(ours: &Dir, boot: &str) -> Result<Self> {
        static COUNT: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);
        let number = COUNT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let name = format!("{boot}-{}-{number}", std::process::id());
        let notes = ours.make_dir(NOTES, 0o700)?;
        notes.open_file(&*name, OFlags::WRONLY | OFlags::CREATE, 0o600)?;
        notes.sync()?;
        Ok(Unsynced(name))
    }

    /// Removes it after a sync.
    pub(crate) fn remove(&self, ours: &Dir) -> Result<()> {
        ours.open_dir(NOTES)?.remove(&*self.0)?;
        Ok(())
    }
}
