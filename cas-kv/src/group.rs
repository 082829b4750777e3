//! Changes of many callers in one transaction.

use std::sync::Arc;

use cas_core::content::Durability;
use cas_core::group::{self, Answer, Grouped, Queue};
use cas_core::{Error, Result};
use tokio::sync::oneshot;

use crate::engine::Failed;
use crate::kv::{Kv, Tables};

/// Most blobs and records that a group adds or removes, where they bring no bytes.
const GROUP: u64 = 256;
/// Most bytes that it adds, where they are in one.
const BYTES: u64 = 16 << 20;

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

struct Waiting<S, T, W> {
    change: Change<S>,
    work: Option<W>,
    outcome: Option<Result<T>>,
    answer: oneshot::Sender<Result<T>>,
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

impl Kv {
    /// Makes a change together with whoever else makes one now.
    ///
    /// `work` refuses before it changes anything, or not at all.
    pub(crate) async fn together<S, T, W>(self: &Arc<Self>, change: Change<S>, work: W) -> Result<T>
    where
        S: Send + 'static,
        T: Send + 'static,
        W: FnOnce(&mut S, &mut Tables<'_>) -> Result<T, Failed> + Send + 'static,
    {
        let (answer, outcome) = oneshot::channel();
        let job = Waiting {
            change,
            work: Some(work),
            outcome: None,
            answer,
        };
        group::join(self, Box::new(job), outcome).await?
    }
}

impl Grouped for Kv {
    type Job = Box<dyn Job>;
    const MOST: u64 = BYTES;

    fn queue(&self) -> &Queue<Self::Job> {
        &self.queue
    }

    fn weight(job: &Self::Job) -> u64 {
        job.weight()
    }

    fn patient(job: &Self::Job) -> bool {
        job.patient()
    }

    /// Makes the changes in one transaction.
    fn make(&self, mut jobs: Vec<Self::Job>) -> Vec<Answer> {
        let done = self.transact(|tables| {
            for job in &mut jobs {
                job.apply(tables).map_err(Failed::Broken)?;
            }
            Ok(((), jobs.iter().any(|job| job.synced())))
        });
        let lost = done.err().map(Error::from);
        let settle = |job: Box<dyn Job>| job.settle(lost.as_ref());
        jobs.into_iter().map(settle).collect()
    }
}
