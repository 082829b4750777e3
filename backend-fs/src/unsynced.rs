//! Markers, which record that some blobs may not be on disk.
//!
//! Before an open store publishes a blob without a sync, it writes its marker file to
//! `.cas/unsynced/`, if the marker does not exist yet. If [`crate::recover`] finds a marker after a
//! boot, it checks all blobs.

use cas_core::{Result, unique};
use cas_host::{Dir, Lock};

const MARKERS: &str = "unsynced";

/// The marker of one open store. It is locked until a flush removes it, or the store is closed.
pub(crate) struct Marker {
    name: String,
    _lock: Lock,
}

impl Marker {
    /// Writes the marker durably.
    pub(crate) fn write(cas_dir: &Dir, boot: &str) -> Result<Self> {
        let name = unique::key(boot);
        let dir = cas_dir.make_dir(MARKERS, 0o700)?;
        let lock = Lock::exclusive(&dir, &name)?;
        dir.sync()?;
        Ok(Marker { name, _lock: lock })
    }
}

/// The markers that exist before a sync.
pub(crate) struct Markers {
    dir: Dir,
    /// The names, each with its lock if its writer has ended.
    found: Vec<(String, Option<Lock>)>,
}

impl Markers {
    /// Finds the markers, and locks the markers whose writers have ended.
    pub(crate) fn find(cas_dir: &Dir) -> Result<Self> {
        let dir = cas_dir.make_dir(MARKERS, 0o700)?;
        let mut found = Vec::new();
        for name in names(&dir)? {
            let lock = Lock::try_exclusive(&dir, &name)?;
            found.push((name, lock));
        }
        Ok(Markers { dir, found })
    }

    /// Returns whether there are no markers. If so, the bytes of every blob that this crate
    /// published are synced.
    pub(crate) fn is_empty(&self) -> bool {
        self.found.is_empty()
    }

    /// Returns whether there is a marker whose writer has ended.
    pub(crate) fn has_ended(&self) -> bool {
        self.found.iter().any(|(_, lock)| lock.is_some())
    }

    /// Removes `own` and the markers whose writers have ended. The caller has synced all blobs
    /// since it found the markers. Keeps the markers of other writers, because these writers may
    /// publish more blobs.
    pub(crate) fn remove_synced(self, own: Option<Marker>) -> Result<()> {
        let gone = self.found.iter().filter(|(_, lock)| lock.is_some());
        let own = own.iter().map(|own| &own.name);
        for name in gone.map(|(name, _)| name).chain(own) {
            self.dir.remove(&**name)?;
        }
        Ok(())
    }

    /// If there is a marker, runs `check` and then removes all markers. Only the recovery calls
    /// this function, before any process of this boot writes a marker.
    pub(crate) fn check_and_remove(
        cas_dir: &Dir,
        check: impl FnOnce() -> Result<()>,
    ) -> Result<()> {
        let dir = cas_dir.make_dir(MARKERS, 0o700)?;
        let names = names(&dir)?;
        if names.is_empty() {
            return Ok(());
        }
        check()?;
        for name in &names {
            dir.remove(&**name)?;
        }
        Ok(())
    }
}

fn names(dir: &Dir) -> Result<Vec<String>> {
    let entries = dir.entries()?.into_iter();
    Ok(entries.map(|entry| entry.name).collect())
}
