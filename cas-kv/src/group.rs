//! Group commit: concurrent changes share one transaction.

use std::sync::Arc;

use cas_core::group::{self, Answer, Grouped, Queue};
use cas_core::{Error, Result};
use tokio::sync::oneshot;

use crate::engine::Failed;
use crate::job::{Change, GROUP_BYTES, Job, Queued};
use crate::kv::Kv;
use crate::tx::Tx;

impl Kv {
    /// Makes a change in one transaction with other changes that are waiting. Returns the result
    /// of `work`.
    ///
    /// `work` must write nothing before it returns [`Failed::Refused`].
    pub(crate) async fn submit<S, T, W>(self: &Arc<Self>, change: Change<S>, work: W) -> Result<T>
    where
        S: Send + 'static,
        T: Send + 'static,
        W: FnOnce(&mut S, &mut Tx<'_>) -> Result<T, Failed> + Send + 'static,
    {
        let (answer, outcome) = oneshot::channel();
        let job = Queued {
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
    const MOST: u64 = GROUP_BYTES;

    fn queue(&self) -> &Queue<Self::Job> {
        &self.queue
    }

    fn weight(job: &Self::Job) -> u64 {
        job.weight()
    }

    fn is_low_priority(job: &Self::Job) -> bool {
        job.is_low_priority()
    }

    /// Makes all changes in one transaction.
    fn make(&self, mut jobs: Vec<Self::Job>) -> Vec<Answer> {
        let done = self.transact(|tx| {
            for job in &mut jobs {
                job.apply(tx).map_err(Failed::Broken)?;
            }
            Ok(((), jobs.iter().any(|job| job.is_synced())))
        });
        let lost = done.err().map(Error::from);
        let finish = |job: Box<dyn Job>| job.finish(lost.as_ref());
        jobs.into_iter().map(finish).collect()
    }
}
