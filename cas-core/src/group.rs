//! Group commit: one thread, the leader, does the jobs of many callers in groups.
//!
//! A caller that finds no leader becomes the leader if its thread may block. The caller leads until
//! its own job is done, and then passes the lead on if jobs wait. So the job of a caller that leads
//! needs no switch to another thread. If the thread of the caller must not block, a thread of the
//! [`pool`] becomes the leader, for as long as jobs wait. The thread takes the lead only when it
//! begins this work, not while the work is still queued in the pool: if all threads of the pool
//! waited for a leader that is still queued, none of them would be free to lead.

use std::collections::VecDeque;
use std::mem;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard, Weak};

use tokio::sync::{Notify, oneshot};

use crate::error::{Error, Result};
use crate::pool;
use crate::sync::lock;

/// Sends a caller the outcome of its job.
pub type Answer = Box<dyn FnOnce() + Send>;

/// Does jobs in groups.
pub trait Grouped: Send + Sync + 'static {
    /// The work of one caller.
    type Job: Send + 'static;

    /// Returns the queue in which jobs wait.
    fn queue(&self) -> &Queue<Self::Job>;

    /// Maximum weight of a group, so that its first job does not wait long. A job that weighs more
    /// is a group of its own.
    const MOST: u64;

    /// Returns the weight that a job adds to its group.
    fn weight(job: &Self::Job) -> u64;

    /// Returns whether the job has low priority. By default, all jobs have high priority. Jobs of
    /// low priority run only when no job of high priority waits. The first group of low priority
    /// after a group of high priority has only one job.
    fn is_low_priority(_job: &Self::Job) -> bool {
        false
    }

    /// Does all jobs and returns their answers. The leader drops its `Arc` of this value before it
    /// sends the last answers, because a caller that receives its answer may expect to hold the
    /// last `Arc`. If this method panics, the callers of `jobs` get no answers, and the leader goes
    /// on with the next group.
    fn make(&self, jobs: Vec<Self::Job>) -> Vec<Answer>;
}

/// Jobs that wait for a leader.
pub struct Queue<J>(Mutex<Inner<J>>);

/// A job, and the way to wake its caller if the caller can lead.
type Waiting<J> = (J, Weak<Notify>);

struct Inner<J> {
    high: VecDeque<Waiting<J>>,
    low: VecDeque<Waiting<J>>,
    /// Whether the last group was of high priority.
    last_was_high: bool,
    has_leader: bool,
}

impl<J> Default for Queue<J> {
    fn default() -> Self {
        Queue(Mutex::new(Inner {
            high: VecDeque::new(),
            low: VecDeque::new(),
            last_was_high: false,
            has_leader: false,
        }))
    }
}

impl<J> Inner<J> {
    fn is_empty(&self) -> bool {
        self.high.is_empty() && self.low.is_empty()
    }
}

impl<J> Queue<J> {
    fn lock(&self) -> MutexGuard<'_, Inner<J>> {
        lock(&self.0)
    }
}

/// Does `job` together with the jobs of other callers. Returns the result that the [`Answer`] to
/// `job` sends to `outcome`.
///
/// # Errors
/// `Internal` if the job ended without an answer.
pub async fn join<G: Grouped, T>(
    group: &Arc<G>,
    job: G::Job,
    mut outcome: oneshot::Receiver<T>,
) -> Result<T> {
    let lost = |_| Error::internal("it is unknown whether the change was made; reopen the store");
    if !pool::may_block() {
        if !push(&**group, job, Weak::new()) {
            start(group);
        }
        return outcome.await.map_err(lost);
    }
    // This is dropped after `turn`, so that the drop passes the lead on to another caller, never to
    // this one.
    let _pass_on = PassOn(group);
    let turn = Arc::new(Notify::new());
    let mut has_leader = push(&**group, job, Arc::downgrade(&turn));
    loop {
        if !has_leader {
            lead(Arc::clone(group), || !outcome.is_empty());
        }
        tokio::select! {
            biased;
            answer = &mut outcome => return answer.map_err(lost),
            () = turn.notified() => has_leader = false,
        }
    }
}

/// Adds a job to the queue. Returns whether there is a leader already.
fn push<G: Grouped>(group: &G, job: G::Job, turn: Weak<Notify>) -> bool {
    let mut queue = group.queue().lock();
    if G::is_low_priority(&job) {
        queue.low.push_back((job, turn));
    } else {
        queue.high.push_back((job, turn));
    }
    queue.has_leader
}

/// Lets a thread of the pool lead until no job waits.
fn start<G: Grouped>(group: &Arc<G>) {
    let group = Arc::clone(group);
    pool::start(move || lead(group, || false));
}

/// Does group after group until `enough` returns true or no job waits. Returns at once if another
/// thread leads.
fn lead<G: Grouped>(group: Arc<G>, enough: impl Fn() -> bool) {
    if mem::replace(&mut group.queue().lock().has_leader, true) {
        return;
    }
    while let Some(jobs) = next(&*group) {
        // The other callers must not wait for a leader that a panic has ended.
        let answers = catch_unwind(AssertUnwindSafe(|| group.make(jobs))).unwrap_or_default();
        if end_if(&*group, Inner::is_empty) {
            drop(group);
            answers.into_iter().for_each(|answer| answer());
            return;
        }
        answers.into_iter().for_each(|answer| answer());
        if enough() && end_if(&*group, |_| true) {
            return;
        }
    }
}

/// Returns the next group. If no job waits, ends the lead before the queue is unlocked, and returns
/// `None`.
fn next<G: Grouped>(group: &G) -> Option<Vec<G::Job>> {
    let mut queue = group.queue().lock();
    let is_high = !queue.high.is_empty();
    let most = if queue.last_was_high && !is_high {
        0
    } else {
        G::MOST
    };
    let from = if is_high {
        &mut queue.high
    } else {
        &mut queue.low
    };
    let (mut jobs, mut weight) = (Vec::new(), 0);
    while let Some((job, _)) = from.pop_front_if(|(job, _)| {
        weight += G::weight(job);
        jobs.is_empty() || weight <= most
    }) {
        jobs.push(job);
    }
    queue.last_was_high = is_high;
    queue.has_leader = !jobs.is_empty();
    queue.has_leader.then_some(jobs)
}

/// Ends the lead if `time` returns true. Returns whether the lead ended.
fn end_if<G: Grouped>(group: &G, time: impl Fn(&Inner<G::Job>) -> bool) -> bool {
    let mut queue = group.queue().lock();
    queue.has_leader = !time(&queue);
    !queue.has_leader
}

/// Passes the lead on when a caller is answered or goes away: to a waiting caller that can lead, or
/// else to the pool.
struct PassOn<'a, G: Grouped>(&'a Arc<G>);

impl<G: Grouped> Drop for PassOn<'_, G> {
    fn drop(&mut self) {
        let queue = self.0.queue().lock();
        if queue.has_leader || queue.is_empty() {
            return;
        }
        let mut waiting = queue.high.iter().chain(&queue.low);
        match waiting.find_map(|(_, turn)| turn.upgrade()) {
            Some(turn) => turn.notify_one(),
            None => start(self.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::mpsc;
    use std::task::Poll;
    use std::thread;
    use std::time::Duration;

    use super::*;
    use crate::error::ErrorKind;

    type Numbered = (usize, oneshot::Sender<usize>);

    /// A group with this job panics.
    const PANICS: usize = usize::MAX;

    /// Answers each job with its number. Even numbers have low priority.
    #[derive(Default)]
    struct Counter {
        queue: Queue<Numbered>,
        done: AtomicUsize,
        groups: Mutex<Vec<Vec<usize>>>,
    }

    impl Grouped for Counter {
        type Job = Numbered;
        const MOST: u64 = 4;

        fn queue(&self) -> &Queue<Numbered> {
            &self.queue
        }

        fn weight(_: &Numbered) -> u64 {
            1
        }

        fn is_low_priority((number, _): &Numbered) -> bool {
            number % 2 == 0
        }

        fn make(&self, jobs: Vec<Numbered>) -> Vec<Answer> {
            thread::sleep(Duration::from_micros(200));
            self.done.fetch_add(jobs.len(), Ordering::Relaxed);
            let numbers: Vec<_> = jobs.iter().map(|(number, _)| *number).collect();
            assert!(!numbers.contains(&PANICS), "planted");
            self.groups.lock().unwrap().push(numbers);
            let answer = |(number, sender): Numbered| {
                Box::new(move || {
                    // One of the callers goes away.
                    let _ = sender.send(number);
                }) as Answer
            };
            jobs.into_iter().map(answer).collect()
        }
    }

    fn job(counter: &Arc<Counter>, number: usize) -> impl Future<Output = Result<usize>> + use<> {
        let counter = Arc::clone(counter);
        async move {
            let (answer, outcome) = oneshot::channel();
            join(&counter, (number, answer), outcome).await
        }
    }

    #[test]
    fn every_caller_is_answered_if_it_blocks_or_not_and_if_others_go_away() {
        let counter = Arc::new(Counter::default());
        let runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = { runtime }.build().unwrap();
        thread::scope(|scope| {
            for number in 0..4 {
                let counter = &counter;
                scope.spawn(move || {
                    for round in 0..100 {
                        let number = number + 10 * round;
                        assert_eq!(pool::wait(job(counter, number)).unwrap(), number);
                    }
                });
            }
            scope.spawn(|| {
                for round in 0..100 {
                    // This caller may be asked to lead, and goes away.
                    pool::wait(async {
                        tokio::select! {
                            biased;
                            _ = job(&counter, 5) => {}
                            () = std::future::ready(()) => {}
                        }
                    });
                    let number = 10_000 + round;
                    let answered = runtime.block_on(job(&counter, number)).unwrap();
                    assert_eq!(answered, number);
                }
            });
        });
        while counter.done.load(Ordering::Relaxed) < 600 {
            thread::sleep(Duration::from_millis(1));
        }
        let groups = counter.groups.lock().unwrap();
        assert!(groups.iter().all(|group| group.len() <= 4));
    }

    #[test]
    fn after_a_panic_its_callers_get_an_error_and_later_callers_are_answered() {
        let counter = Arc::new(Counter::default());
        let runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = { runtime }.build().unwrap();
        let (sender, answered) = mpsc::channel();
        thread::spawn(move || {
            let ends = |[lost, next]: [Result<usize>; 2]| {
                let lost = lost.map_err(|error| error.kind());
                sender.send((lost, next.ok())).unwrap();
            };
            // In the first line, a thread of the pool leads; in the second, the caller.
            ends([PANICS, 1].map(|number| runtime.block_on(job(&counter, number))));
            ends([PANICS, 1].map(|number| pool::wait(job(&counter, number))));
        });
        for _ in 0..2 {
            let answers = answered.recv_timeout(Duration::from_secs(60));
            assert_eq!(answers, Ok((Err(ErrorKind::Internal), Some(1))));
        }
    }

    #[test]
    fn low_priority_jobs_let_others_pass() {
        let counter = Arc::new(Counter::default());
        let runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = { runtime }.build().unwrap();
        counter.queue.lock().has_leader = true;
        let mut jobs: Vec<_> = [2, 4, 6, 8, 1, 3]
            .into_iter()
            .map(|number| Box::pin(job(&counter, number)))
            .collect();
        runtime.block_on(async {
            for job in &mut jobs {
                let first = poll_fn(|context| Poll::Ready(job.as_mut().poll(context)));
                assert!(first.await.is_pending());
            }
            counter.queue.lock().has_leader = false;
            start(&counter);
            for job in jobs {
                job.await.unwrap();
            }
        });
        let groups = counter.groups.lock().unwrap();
        assert_eq!(*groups, [vec![1, 3], vec![2], vec![4, 6, 8]]);
    }
}
