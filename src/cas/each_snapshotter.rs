//! All snapshotters that have files in a root: the one of the handle, and others that were chosen
//! for other handles.

use std::sync::Arc;

use cas_core::sync::lock;
use cas_core::{Result, Snapshotter};

use super::Cas;
use super::open::open_snapshotter;
use crate::root::parse_snapshotter;

impl Cas {
    /// Returns this handle, and then a handle for each other snapshotter that has files in the
    /// root, because another handle was opened with it (see
    /// [`OpenOptions::snapshotter`](super::OpenOptions::snapshotter)). If the store was chosen for
    /// this handle, returns only this handle. [`Cas::close`] closes all these handles.
    ///
    /// Collections, checks and [`Cas::leftovers`] cover all these snapshotters. [`Cas::unmount`]
    /// finds the mounts of all of them, and [`Cas::unmount_root_dir`] and [`Cas::remove_root_dir`]
    /// find their root directories. If a snapshotter cannot be opened, it is left out, and the
    /// first call for this handle logs a warning. If the registry of this handle does not have a
    /// snapshotter, it is left out without a warning.
    ///
    /// Each other snapshotter is opened without options, except the root's own, because `cas.toml`
    /// records the options of no other. So an image whose layers are EROFS images can be unmounted
    /// only with `erofs://?native=true`, chosen for the root or for the handle.
    ///
    /// # Errors
    /// `FailedPrecondition` if the handle is closed.
    pub async fn with_each_snapshotter(&self) -> Result<Vec<Cas>> {
        self.opened()?;
        let mut handles = vec![self.clone()];
        let own = self.snapshotter.as_ref().map(|one| one.name());
        for opener in self.registry.snapshotters().filter(|_| self.own_store) {
            let name = opener.scheme();
            if Some(name) == own || !self.root.has_files_of(name) {
                continue;
            }
            match self.with_other(name).await {
                Ok(handle) => handles.push(handle),
                Err(error) if lock(&self.warned).insert(name) => tracing::warn!(
                    "cannot open the snapshotter {name}, which has files in this root: {error}; \
                     its snapshots and leftovers are left out; correct the cause and try again"
                ),
                Err(_) => {}
            }
        }
        Ok(handles)
    }

    /// Returns a handle for another snapshotter of the root. If this is the root's own snapshotter,
    /// it has the options that `cas.toml` sets.
    async fn with_other(&self, name: &str) -> Result<Cas> {
        let own = &*self.root.engines.snapshotter;
        let is_own = parse_snapshotter(own)?.scheme() == name;
        let chosen = if is_own { own } else { name };
        let snapshotter = open_snapshotter(&self.root, chosen, &self.store, &self.registry).await?;
        Ok(Cas {
            locks: self.root.locks(name).into(),
            only_tars: self.only_tars && snapshotter.keeps_tars(),
            snapshotter: Some(snapshotter),
            ..self.clone()
        })
    }

    /// Returns the snapshotter that has the snapshot `key`: the one of this handle, or else one of
    /// the others that [`Cas::with_each_snapshotter`] finds. Returns `None` if none has it.
    ///
    /// # Errors
    /// `FailedPrecondition` if this handle has no snapshotter; errors of the snapshotters.
    pub(super) async fn snapshotter_of(&self, key: &str) -> Result<Option<Arc<dyn Snapshotter>>> {
        let own = self.snapshotter()?;
        if own.stat(key).await?.is_some() {
            return Ok(Some(Arc::clone(own)));
        }
        for other in self.with_each_snapshotter().await?.iter().skip(1) {
            let other = other.snapshotter()?;
            if other.stat(key).await?.is_some() {
                return Ok(Some(Arc::clone(other)));
            }
        }
        Ok(None)
    }

    /// Returns the snapshotter if the store is the root's own. Otherwise returns `None`, because
    /// another store does not have the images that keep the snapshots.
    pub(super) fn collected_snapshotter(&self) -> Option<&dyn Snapshotter> {
        self.snapshotter.as_deref().filter(|_| self.own_store)
    }
}

/// Returns the snapshotters of these handles whose snapshots a collection may remove.
pub(super) fn collected(handles: &[Cas]) -> Vec<&dyn Snapshotter> {
    let found = handles.iter().filter_map(Cas::collected_snapshotter);
    found.collect()
}
