//! Changes of many callers in one transaction: whoever finds none under way makes it for all.

use std::collections::VecDeque;
use std::sync::Arc;

use cas_core::content::Durability;
use cas_core::{Error, Result, pool};
use tokio::sync::oneshot;

use crate::engine::{Engine, lock};
use crate::error::Failed;
use crate::tables::Tables;

/// Most changes that share a transaction, so that the first is not kept long.
const GROUP: usize = 128;
/// Most bytes that they bring, likewise.
const BYTES: u64 = 16 << 20;

/// Changes that wait for their transaction.
#[derive(Default)]
pub(crate) struct Queue {
    waiting: VecDeque<Box<dyn Job>>,
    /// Whether a thread is at work that will take what is put here.
    led: bool,
}

/// A change and whoever waits for it.
trait Job: Send {
    fn bytes(&self) -> u64;
    fn synced(&self) -> bool;
    fn apply(&mut self, tables: &mut Tables<'_>) -> Result<(), Error>;
    fn settle(self: Box<Self>, lost: Option<&Error>) -> Answer;
}

/// Tells a caller what became of his change.
type Answer = Box<dyn FnOnce() + Send>;

/// What a caller wants done.
pub(crate) struct Change<S> {
    /// What the work needs; dropped after the transaction and before the answer.
    pub(crate) state: S,
    /// Bytes that it adds.
    pub(crate) bytes: u64,
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
    fn bytes(&self) -> u64 {
        self.change.bytes
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

impl Engine {
    /// Makes a change together with whoever else makes one now.
    ///
    /// `work` refuses before it changes anything, or not at all.
    pub(crate) async fn together<S, T, W>(self: &Arc<Self>, change: Change<S>, work: W) -> Result<T>
    where
        S: Send + 'static,
        T: Send + 'static,
        W: FnOnce(&mut S, &mut Tables<'_>) -> Result<T, Failed> + Send + 'static,
    {
        let (answer, mut outcome) = oneshot::channel();
        let job = Waiting {
            change,
            work: Some(work),
            outcome: None,
            answer,
        };
        let led = {
            let mut queue = lock(&self.queue);
            queue.waiting.push_back(Box::new(job));
            queue.led
        };
        let gone = |_| Error::internal("a change was lost; open the store anew");
        if !led {
            let engine = Arc::clone(self);
            let lead = pool::run(move || {
                engine.lead();
                Ok(())
            });
            tokio::select! {
                biased;
                answer = &mut outcome => return answer.map_err(gone)?,
                led = lead => led?,
            }
        }
        outcome.await.map_err(gone)?
    }

    /// Makes what waits, group after group, unless another thread does.
    fn lead(self: Arc<Self>) {
        if std::mem::replace(&mut lock(&self.queue).led, true) {
            return;
        }
        let mut next = self.next_group();
        while let Some(group) = next {
            let answers = self.commit(group);
            next = self.next_group();
            if next.is_none() {
                // Who is answered may drop the last handle, and open the store again.
                drop(self);
                answers.into_iter().for_each(|answer| answer());
                return;
            }
            answers.into_iter().for_each(|answer| answer());
        }
    }

    /// The next group; with the last one the lead ends, under the same lock.
    fn next_group(&self) -> Option<Vec<Box<dyn Job>>> {
        let mut queue = lock(&self.queue);
        let (mut group, mut bytes) = (Vec::new(), 0);
        while group.len() < GROUP && bytes < BYTES {
            let Some(job) = queue.waiting.pop_front() else {
                break;
            };
            bytes += job.bytes();
            group.push(job);
        }
        queue.led = !group.is_empty();
        queue.led.then_some(group)
    }

    fn commit(&self, mut group: Vec<Box<dyn Job>>) -> Vec<Answer> {
        let done = self.transact(|tables| {
            for job in &mut group {
                job.apply(tables).map_err(Failed::Broken)?;
            }
            Ok(((), group.iter().any(|job| job.synced())))
        });
        let lost = done.err().map(Error::from);
        let settle = |job: Box<dyn Job>| job.settle(lost.as_ref());
        group.into_iter().map(settle).collect()
    }
}
