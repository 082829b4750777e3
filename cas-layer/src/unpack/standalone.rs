//! A layer that is applied without its parents.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};

use cas_core::sync::lock;

use super::active_snapshot::ActiveSnapshot;
use super::kept_layer::KeptLayer;
use crate::apply::DeferredEffects;

/// A layer that is applied without its parents.
pub(super) struct StandaloneLayer {
    pub(super) snapshot: Arc<ActiveSnapshot>,
    /// The directory of the snapshot. The layer is applied to it if `kept` is `None`.
    pub(super) tree: PathBuf,
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
    pub(super) fn new(snapshot: Arc<ActiveSnapshot>, tree: PathBuf) -> Self {
        StandaloneLayer {
            snapshot,
            tree,
            kept: None,
            state: Mutex::new(State::Waiting),
        }
    }

    /// Sets the layer in the job of its image. If there are effects, an earlier process has applied
    /// the layer there.
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
