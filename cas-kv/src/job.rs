//! Changes that wait for a group commit.

use cas_core::content::Durability;
use cas_core::group::Answer;
use cas_core::{Error, Result};
use tokio::sync::oneshot;

use crate::engine::Failed;
use crate::tx::Tx;

/// Maximum number of blobs and records that a group adds or removes, if they add no bytes. A change
/// that is larger by itself is a group of its own.
const GROUP_ROWS: u64 = 256;
/// Maximum number of bytes that a group adds. A change that is larger by itself is a group of its
/// own.
pub(crate) const GROUP_BYTES: u64 = 16 << 20;

/// A change that waits in the queue. Its result may have any type.
pub(crate) trait Job: Send {
    fn weight(&self) -> u64;
    fn is_low_priority(&self) -> bool;
    fn is_synced(&self) -> bool;
    /// Makes the change. An error means that the whole transaction failed.
    fn apply(&mut self, tx: &mut Tx<'_>) -> Result<(), Error>;
    /// Returns the answer for the caller. `lost` is the error if the transaction failed.
    fn finish(self: Box<Self>, lost: Option<&Error>) -> Answer;
}

/// Returns how much a change counts in a group, if the change concerns `rows` blobs and records,
/// and adds `bytes` bytes.
pub(crate) fn weight(rows: usize, bytes: u64) -> u64 {
    rows as u64 * (GROUP_BYTES / GROUP_ROWS) + bytes
}

/// Parameters of a change.
pub(crate) struct Change<S> {
    /// State of the work, dropped after the transaction and before the answer is sent.
    pub(crate) state: S,
    /// See [`weight`].
    pub(crate) weight: u64,
    /// Whether other changes go first.
    pub(crate) low_priority: bool,
    /// Whether the transaction must be synced.
    pub(crate) durability: Durability,
}

/// A change together with its work and the channel for its answer.
pub(crate) struct Queued<S, T, W> {
    pub(crate) change: Change<S>,
    pub(crate) work: Option<W>,
    pub(crate) outcome: Option<Result<T>>,
    pub(crate) answer: oneshot::Sender<Result<T>>,
}

impl<S, T, W> Job for Queued<S, T, W>
where
    S: Send,
    T: Send + 'static,
    W: FnOnce(&mut S, &mut Tx<'_>) -> Result<T, Failed> + Send,
{
    fn weight(&self) -> u64 {
        self.change.weight
    }

    fn is_low_priority(&self) -> bool {
        self.change.low_priority
    }

    fn is_synced(&self) -> bool {
        self.change.durability != Durability::Relaxed
    }

    fn apply(&mut self, tx: &mut Tx<'_>) -> Result<(), Error> {
        let Some(work) = self.work.take() else {
            return Ok(());
        };
        self.outcome = match work(&mut self.change.state, tx) {
            Ok(done) => Some(Ok(done)),
            Err(Failed::Refused(error)) => Some(Err(error)),
            Err(Failed::Broken(error)) => return Err(error),
        };
        Ok(())
    }

    fn finish(self: Box<Self>, lost: Option<&Error>) -> Answer {
        let Queued {
            outcome,
            answer,
            change,
            ..
        } = *self;
        drop(change.state);
        let outcome = match (lost, outcome) {
            (None, Some(outcome)) => outcome,
            (Some(error), _) => Err(Error::new(error.kind(), error.to_string())),
            (None, None) => Err(Error::internal("a change was not made; please report it")),
        };
        Box::new(move || {
            // The change is made even if the caller no longer waits for the answer.
            let _ = answer.send(outcome);
        })
    }
}
