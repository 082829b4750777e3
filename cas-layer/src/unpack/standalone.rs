//! A layer that is applied without its parents, which are the layers below it.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};

use cas_core::snapshot::{LayerTarget, Mount};
use cas_core::sync::lock;
use cas_core::{Error, Result};

use super::active_snapshot::ActiveSnapshot;
use super::kept_layer::KeptLayer;
use super::stored_tar;
use crate::apply::DeferredEffects;

/// A layer that is applied without its parents.
pub(super) struct StandaloneLayer {
    pub(super) snapshot: Arc<ActiveSnapshot>,
    /// The directory of the snapshot. The layer is written to it if `kept` is `None`.
    pub(super) tree: PathBuf,
    /// Whether the tar of the layer is stored in the directory, instead of being applied to it.
    pub(super) is_tar: bool,
    /// The layer in the job of its image, if it is unpacked there first.
    pub(super) kept: Option<KeptLayer>,
    state: Mutex<State>,
}

/// The progress of a layer.
pub(super) enum State {
    Waiting,
    Begun,
    /// With its deferred effects, or `None` if it must be applied again on top of its parents.
    Applied(Option<DeferredEffects>),
}

impl StandaloneLayer {
    /// Returns a layer that is waiting to be applied to `target` of `snapshot`.
    ///
    /// # Errors
    /// `Unsupported` if `target` is neither one directory nor the directory of a tar.
    pub(super) fn new(snapshot: Arc<ActiveSnapshot>, target: LayerTarget) -> Result<Self> {
        let (tree, is_tar) = match target {
            LayerTarget::Tree(mounts) => (only_tree(mounts)?, false),
            LayerTarget::Tar(directory) => (directory, true),
            _ => return Err(stored_tar::unknown_target()),
        };
        Ok(StandaloneLayer {
            snapshot,
            tree,
            is_tar,
            kept: None,
            state: Mutex::new(State::Waiting),
        })
    }

    /// Sets `kept`: the layer in the job of its image. If there are `effects`, an earlier process
    /// has already applied the layer in that job.
    pub(super) fn keep(&mut self, kept: KeptLayer, effects: Option<DeferredEffects>) {
        self.kept = Some(kept);
        if effects.is_some() {
            *self.state() = State::Applied(effects);
        }
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// Marks the layer as begun. Returns `false` if it is not waiting.
    pub(super) fn begin(&self) -> bool {
        let mut state = self.state();
        let waiting = matches!(*state, State::Waiting);
        if waiting {
            *state = State::Begun;
        }
        waiting
    }
}

/// Returns the directory of a snapshot without parent.
fn only_tree(mut mounts: Vec<Mount>) -> Result<PathBuf> {
    match (mounts.pop(), mounts.is_empty()) {
        (Some(Mount::Bind { source, .. }), true) => Ok(source),
        _ => Err(Error::unsupported(
            "expected one directory from the snapshotter for a snapshot without a parent, found \
             other mounts; choose another snapshotter",
        )
        .operation("unpack")),
    }
}
