//! Group commit: work of many callers that one of them does for all, in groups.
//!
//! Whoever finds nobody at it leads. A caller whose thread may block leads on that thread, which
//! costs no hop, until its own job is done, and then passes the lead on; for one that must not
//! block a thread of the pool leads while anything waits. Only a thread that is at work leads:
//! one that is promised may be waited for by all that there are.

use std::collections::VecDeque;
use std::mem;
use std::sync::{Arc, Mutex, MutexGuard, Weak};

use tokio::sync::{Notify, oneshot};

use crate::error::{Error, Result};
use crate::pool;
use crate::sync::lock;

/// Tells a caller what became of its job.
pub type Answer = Box<dyn FnOnce() + Send>;

/// Does jobs in groups.
pub trait Grouped: Send + Sync + 'static {
    /// What a caller wants done.
    type Job: Send + 'static;

    /// Where jobs wait.
    fn queue(&self) -> &Queue<Self::Job>;

    /// Most weight of a group, which has one job at least, so that the first is not kept long.
    const MOST: u64;

    /// What a job adds to it.
    fn weight(job: &Self::Job) -> u64;

    /// Whether nobody is kept by the job: such go when no other waits, and one at a time while
    /// others come in between.
    fn patient(_job: &Self::Job) -> bool {
        false
    }

    /// Does all of them. Who is answered may drop the last handle of what this is of, so that the
    /// last answers are given when the leader has let go of it.
    fn make(&self, jobs: Vec<Self::Job>) -> Vec<Answer>;
}

/// Jobs that wait for a leader.
pub struct Queue<J>(Mutex<Inner<J>>);

/// A job, and the way to wake its caller where that can lead.
type Waiting<J> = (J, Weak<Notify>);

struct Inner<J> {
    urgent: VecDeque<Waiting<J>>,
    patient: VecDeque<Waiting<J>>,
    /// Whether the last group was an urgent one.
    hurried: bool,
    led: bool,
}

impl<J> Default for Queue<J> {
    fn default() -> Self {
        Queue(Mutex::new(Inner {
            urgent: VecDeque::new(),
            patient: VecDeque::new(),
            hurried: false,
            led: false,
        }))
    }
}

impl<J> Inner<J> {
    fn is_empty(&self) -> bool {
        self.urgent.is_empty() && self.patient.is_empty()
    }
}

impl<J> Queue<J> {
    fn lock(&self) -> MutexGuard<'_, Inner<J>> {
        lock(&self.0)
    }
}

/// Has `job` done together with what others want done now; `outcome` is where its answer comes.
///
/// # Errors
/// `Internal` when the job was lost.
pub async fn join<G: Grouped, T>(
    group: &Arc<G>,
    job: G::Job,
    mut outcome: oneshot::Receiver<T>,
) -> Result<T> {
    let lost = |_| Error::internal("a change was lost; open the store anew");
    if !pool::may_block() {
        if !push(&**group, job, Weak::new()) {
            start(group);
        }
        return outcome.await.map_err(lost);
    }
    // Dropped after `turn`: a caller that is gone is not asked to lead.
    let _pass_on = PassOn(group);
    let turn = Arc::new(Notify::new());
    let mut led = push(&**group, job, Arc::downgrade(&turn));
    loop {
        if !led {
            lead(Arc::clone(group), || !outcome.is_empty());
        }
        tokio::select! {
            biased;
            answer = &mut outcome => return answer.map_err(lost),
            () = turn.notified() => led = false,
        }
    }
}

/// Whether somebody leads already.
fn push<G: Grouped>(group: &G, job: G::Job, turn: Weak<Notify>) -> bool {
    let mut queue = group.queue().lock();
    match G::patient(&job) {
        true => queue.patient.push_back((job, turn)),
        false => queue.urgent.push_back((job, turn)),
    }
    queue.led
}

/// A thread of the pool leads until nothing waits.
fn start<G: Grouped>(group: &Arc<G>) {
    let group = Arc::clone(group);
    pool::start(move || lead(group, || false));
}

/// Does group after group until `enough` or nothing waits, unless another thread does.
fn lead<G: Grouped>(group: Arc<G>, enough: impl Fn() -> bool) {
    if mem::replace(&mut group.queue().lock().led, true) {
        return;
    }
    while let Some(jobs) = next(&*group) {
        let answers = group.make(jobs);
        if end_where(&*group, Inner::is_empty) {
            drop(group);
            answers.into_iter().for_each(|answer| answer());
            return;
        }
        answers.into_iter().for_each(|answer| answer());
        if enough() && end_where(&*group, |_| true) {
            return;
        }
    }
}

/// The next group; with nothing left the lead ends, under the same lock.
fn next<G: Grouped>(group: &G) -> Option<Vec<G::Job>> {
    let mut queue = group.queue().lock();
    let hurry = !queue.urgent.is_empty();
    let most = if queue.hurried && !hurry { 0 } else { G::MOST };
    let from = if hurry {
        &mut queue.urgent
    } else {
        &mut queue.patient
    };
    let (mut jobs, mut weight) = (Vec::new(), 0);
    while let Some((job, _)) = from.pop_front_if(|(job, _)| {
        weight += G::weight(job);
        jobs.is_empty() || weight <= most
    }) {
        jobs.push(job);
    }
    queue.hurried = hurry;
    queue.led = !jobs.is_empty();
    queue.led.then_some(jobs)
}

/// Ends the lead where it is time; whether it is.
fn end_where<G: Grouped>(group: &G, time: impl Fn(&Inner<G::Job>) -> bool) -> bool {
    let mut queue = group.queue().lock();
    queue.led = !time(&queue);
    !queue.led
}

/// With a caller that is done or gone goes its lead, and its turn to lead.
struct PassOn<'a, G: Grouped>(&'a Arc<G>);

impl<G: Grouped> Drop for PassOn<'_, G> {
    fn drop(&mut self) {
        let queue = self.0.queue().lock();
        if queue.led || queue.is_empty() {
            return;
        }
        let mut waiting = queue.urgent.iter().chain(&queue.patient);
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
    use std::task::Poll;
    use std::thread;
    use std::time::Duration;

    use super::*;

    type Numbered = (usize, oneshot::Sender<usize>);

    /// Answers each job with its number; even ones are patient.
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

        fn patient((number, _): &Numbered) -> bool {
            number % 2 == 0
        }

        fn make(&self, jobs: Vec<Numbered>) -> Vec<Answer> {
            thread::sleep(Duration::from_micros(200));
            self.done.fetch_add(jobs.len(), Ordering::Relaxed);
            let numbers = jobs.iter().map(|(number, _)| *number).collect();
            self.groups.lock().unwrap().push(numbers);
            let answer = |(number, sender): Numbered| {
                Box::new(move || {
                    // One of them goes away.
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
    fn everybody_is_answered_whoever_blocks_and_whoever_goes_away() {
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
                    // Asked to lead perhaps, and gone.
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
    fn patient_jobs_let_others_pass() {
        let counter = Arc::new(Counter::default());
        let runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = { runtime }.build().unwrap();
        counter.queue.lock().led = true;
        let mut jobs: Vec<_> = [2, 4, 6, 8, 1, 3]
            .into_iter()
            .map(|number| Box::pin(job(&counter, number)))
            .collect();
        runtime.block_on(async {
            for job in &mut jobs {
                let first = poll_fn(|context| Poll::Ready(job.as_mut().poll(context)));
                assert!(first.await.is_pending());
            }
            counter.queue.lock().led = false;
            start(&counter);
            for job in jobs {
                job.await.unwrap();
            }
        });
        let groups = counter.groups.lock().unwrap();
        assert_eq!(*groups, [vec![1, 3], vec![2], vec![4, 6, 8]]);
    }
}
