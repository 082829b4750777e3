//! An active snapshot that a layer is applied to.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use cas_core::background::{self, shield};
use cas_core::snapshot::{Commit, LayerTarget};
use cas_core::{Labels, Result, Snapshotter};

/// An active snapshot. When this value is dropped, the snapshot is removed in the background,
/// unless it was committed, its files were given to another snapshot, or its removal was already
/// tried.
///
/// A thread that applies a layer also owns the value. If the caller drops its future, the snapshot
/// is therefore removed only after the thread has ended.
pub(super) struct ActiveSnapshot {
    snapshotter: Arc<dyn Snapshotter>,
    key: String,
    /// Whether the snapshot is not removed when this value is dropped.
    ended: AtomicBool,
}

impl ActiveSnapshot {
    /// Prepares the snapshot `key` for a layer. Returns the snapshot, and the target to which the
    /// layer is written.
    pub(super) async fn prepare(
        snapshotter: &Arc<dyn Snapshotter>,
        key: String,
        parent: Option<String>,
        labels: Labels,
    ) -> Result<(Arc<Self>, LayerTarget)> {
        let active = ActiveSnapshot {
            snapshotter: Arc::clone(snapshotter),
            key,
            ended: AtomicBool::new(false),
        };
        shield(async move {
            let (snapshotter, key) = (&active.snapshotter, &active.key);
            let prepared = snapshotter.prepare_layer(key, parent.as_deref(), labels);
            match prepared.await {
                Ok(target) => Ok((Arc::new(active), target)),
                Err(error) => {
                    active.end();
                    Err(error)
                }
            }
        })
        .await
    }

    /// Returns the key.
    pub(super) fn key(&self) -> &str {
        &self.key
    }

    /// Commits the snapshot as `name`.
    pub(super) async fn commit(self: &Arc<Self>, name: String, options: Commit) -> Result<()> {
        let active = Arc::clone(self);
        shield(async move {
            let committed = active.snapshotter.commit(&name, &active.key, options).await;
            committed.inspect(|()| active.end())
        })
        .await
    }

    /// Gives the files of this snapshot to the committed snapshot `name`, and ends this snapshot.
    pub(super) async fn replace(self: &Arc<Self>, name: String) -> Result<()> {
        let active = Arc::clone(self);
        shield(async move {
            let replaced = active.snapshotter.replace(&name, &active.key).await;
            replaced.inspect(|()| active.end())
        })
        .await
    }

    /// Removes the snapshot.
    pub(super) async fn remove(self: &Arc<Self>) -> Result<()> {
        let active = Arc::clone(self);
        shield(async move {
            let removed = active.snapshotter.remove(&active.key).await;
            active.end();
            removed
        })
        .await
    }

    fn end(&self) {
        self.ended.store(true, Ordering::Relaxed);
    }
}

impl Drop for ActiveSnapshot {
    fn drop(&mut self) {
        if *self.ended.get_mut() {
            return;
        }
        let (snapshotter, key) = (Arc::clone(&self.snapshotter), std::mem::take(&mut self.key));
        background::run(async move {
            // If this fails, a collection removes the snapshot after the lease in its label has
            // ended.
            let _ = snapshotter.remove(&key).await;
        });
    }
}
