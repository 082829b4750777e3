//! A change of one caller, on its way into a transaction of many.

use cas_core::content::Durability;
use cas_core::group::Answer;
use cas_core::{Error, Result};
use tokio::sync::oneshot;

use crate::engine::Failed;
use crate::tables::Tables;

/// Most blobs and records that a group adds or removes, where they bring no bytes.
const GROUP: u64 = 256;
/// Most bytes that it adds, where they are in one.
pub(crate) const BYTES: u64 = 16 << 20;

/// A change and whoever waits for it.
pub(crate) trait Job: Send {
    fn weight(&self) -> u64;
    fn patient(&self) -> bool;
    fn synced(&self) -> bool;
    fn apply(&mut self, tables: &mut Tables<'_>) -> Result<(), Error>;
    fn settle(self: Box<Self>, lost: Option<&Error>) -> Answer;
}

/// What a change weighs that adds or removes so many blobs and records, and adds so many bytes.
pub(crate) fn weight(rows: usize, bytes: u64) -> u64 {
    rows as u64 * (BYTES / GROUP) + bytes
}

/// What a caller wants done.
pub(crate) struct Change<S> {
    /// What the work needs; dropped after the transaction and before the answer.
    pub(crate) state: S,
    /// See [`weight`].
    pub(crate) weight: u64,
    /// Whether nobody is kept by it.
    pub(crate) patient: bool,
    /// What it promises.
    pub(crate) durability: Durability,
}

pub(crate) struct Waiting<S, T, W> {
    pub(crate) change: Change<S>,
    pub(crate) work: Option<W>,
    pub(crate) outcome: Option<Result<T>>,
    pub(crate) answer: oneshot::Sender<Result<T>>,
}

impl<S, T, W> Job for Waiting<S, T, W>
where
    S: Send,
    T: Send + 'static,
    W: FnOnce(&mut S, &mut Tables<'_>) -> Result<T, Failed> + Send,
{
    fn weight(&self) -> u64 {
        self.change.weight
    }

    fn patient(&self) -> bool {
        self.change.patient
    }

    fn synced(&self) -> bool {
        self.change.durability != Durability::Relaxed
    }

    /// An error is that of the transaction, not of this change alone.
    fn apply(&mut self, tables: &mut Tables<'_>) -> Result<(), Error> {
        let Some(work) = self.work.take() else {
            return Ok(());
        };
        self.outcome = match work(&mut self.change.state, tables) {
            Ok(done) => Some(Ok(done)),
            Err(Failed::Refused(error)) => Some(Err(error)),
            Err(Failed::Broken(error)) => return Err(error),
        };
        Ok(())
    }

    fn settle(self: Box<Self>, lost: Option<&Error>) -> Answer {
        let Waiting {
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
            // Who no longer waits has it all the same.
            let _ = answer.send(outcome);
        })
    }
}
