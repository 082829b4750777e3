//! All snapshotters that have files in a root: the one of the handle, and others that were chosen
//! for other handles.

use std::sync::Arc;

use cas_core::snapshot::Info;
use cas_core::sync::lock;
use cas_core::{Result, Snapshotter};

use super::Cas;
use super::open::open_snapshotter;
use crate::root::parse_snapshotter;

impl Cas {
    /// Returns this handle, and then a handle for each other snapshotter that has files in the
    /// root. A snapshotter has files there if any handle of the root was opened with this
    /// snapshotter (see [`OpenOptions::snapshotter`](super::OpenOptions::snapshotter)). If the
    /// store was chosen for this handle, returns only this handle. [`Cas::close`] closes all these
    /// handles.
    ///
    /// Collections, checks and [`Cas::leftovers`] cover all these snapshotters. [`Cas::unmount`]
    /// finds the mounts of all of them, and [`Cas::unmount_root_dir`] and [`Cas::remove_root_dir`]
    /// find their root directories. A snapshotter that cannot be opened is left out, and the first
    /// call for this handle logs a warning. A snapshotter that is not in the
    /// [`Registry`](crate::Registry) of this handle is left out without a warning.
    ///
    /// The root's own snapshotter is opened with the options in `cas.toml`. Each other snapshotter
    /// is opened without options, because `cas.toml` does not record its options. So an image whose
    /// layers are EROFS images can be unmounted only if the root or this handle has the snapshotter
    /// `erofs://?native=true`.
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
    /// `FailedPrecondition` if this handle has no snapshotter; errors of its snapshotter.
    pub(super) async fn snapshotter_of(&self, key: &str) -> Result<Option<Arc<dyn Snapshotter>>> {
        let own = self.snapshotter()?;
        if own.stat(key).await?.is_some() {
            return Ok(Some(Arc::clone(own)));
        }
        let others = self.others_with(key).await?;
        Ok(others.into_iter().next().map(|(other, _)| other))
    }

    /// Returns the snapshots `key` of the other snapshotters that [`Cas::with_each_snapshotter`]
    /// finds, each with its snapshotter. A snapshotter that cannot look up the snapshot, for
    /// example because its record is damaged, is left out with a warning, so that it does not make
    /// a job of this handle fail.
    ///
    /// # Errors
    /// `FailedPrecondition` if this handle has no snapshotter.
    pub(super) async fn others_with(&self, key: &str) -> Result<Vec<(Arc<dyn Snapshotter>, Info)>> {
        let mut found = Vec::new();
        for other in self.with_each_snapshotter().await?.iter().skip(1) {
            let other = other.snapshotter()?;
            match other.stat(key).await {
                Ok(info) => found.extend(info.map(|info| (Arc::clone(other), info))),
                Err(error) => tracing::warn!(
                    "cannot look up the snapshot {key} in the snapshotter {}: {error}; the \
                     snapshot is left out; run `cas fsck --repair`",
                    other.name()
                ),
            }
        }
        Ok(found)
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
