//! Changes of many callers in one transaction.

use std::sync::Arc;

use cas_core::group::{self, Answer, Grouped, Queue};
use cas_core::{Error, Result};
use tokio::sync::oneshot;

use crate::engine::Failed;
use crate::job::{BYTES, Change, Job, Waiting};
use crate::kv::Kv;
use crate::tables::Tables;

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
