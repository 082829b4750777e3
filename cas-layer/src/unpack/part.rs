//! A layer that is applied without its parents.

use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::apply::Assumed;

/// A layer that is applied apart.
pub(super) struct Part {
    /// Of its snapshot.
    pub(super) key: String,
    /// Its tree.
    pub(super) tree: PathBuf,
    state: Mutex<State>,
}

/// What has become of it.
pub(super) enum State {
    Waiting,
    Begun,
    /// With what it takes for granted; nothing where it can only be applied on its parent.
    Applied(Option<Assumed>),
}

impl Part {
    pub(super) fn new(key: String, tree: PathBuf) -> Self {
        Part {
            key,
            tree,
            state: Mutex::new(State::Waiting),
        }
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins, where nobody has yet.
    pub(super) fn begin(&self) -> bool {
        let mut state = self.state();
        let waiting = matches!(*state, State::Waiting);
        if waiting {
            *state = State::Begun;
        }
        waiting
    }
}
