//! A layer that is applied without its parents.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};

use cas_core::sync::lock;

use super::active_snapshot::ActiveSnapshot;
use crate::apply::DeferredEffects;

/// A layer that is applied without its parents.
pub(super) struct StandaloneLayer {
    pub(super) snapshot: Arc<ActiveSnapshot>,
    /// The directory that it is applied to.
    pub(super) tree: PathBuf,
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
            state: Mutex::new(State::Waiting),
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
