//! A bounded pool of threads for work that would block the threads of an async runtime: hashing,
//! writes, syncs, unpacking.
//!
//! tokio's own pool grows to 512 threads, and `tokio::fs` switches threads for every call. Here a
//! whole piece of work switches threads once, and not at all if the caller's thread may block.

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, OnceLock, PoisonError, mpsc};
use std::task::{Context, Poll, Wake, Waker};
use std::thread;
use std::time::{Duration, Instant};

use tokio::task::coop::unconstrained;

use crate::error::{EAGAIN, Error, Result};
use crate::sync::lock;

type Job = Box<dyn FnOnce() + Send>;

thread_local! {
    static MAY_BLOCK: Cell<bool> = const { Cell::new(false) };
}

/// Runs `work` on the pool, or on this thread if this thread may block. A thread may block if it
/// belongs to the pool, or while it runs [`inline`] or [`wait`]. Returns the result of `work`.
///
/// Dropping the future does not stop work that was passed to the pool.
///
/// # Errors
/// Errors of `work`; `Internal` if `work` panicked on the pool; `Busy` if no thread of the pool
/// could be started.
pub async fn run<T, F>(work: F) -> Result<T>
where
    T: Send + 'static,
    F: FnOnce() -> Result<T> + Send + 'static,
{
    if MAY_BLOCK.get() {
        return work();
    }
    let (answer, answered) = tokio::sync::oneshot::channel();
    let active = Active::begin();
    let job: Job = Box::new(move || {
        let outcome = catch_unwind(AssertUnwindSafe(work));
        drop(active);
        // The caller may have gone away.
        let _ = answer.send(outcome.unwrap_or_else(|_| Err(panicked())));
    });
    let sent = pool().send(job);
    sent.map_err(|_| Error::from(io::Error::from_raw_os_error(EAGAIN)).operation("start threads"))?;
    answered.await.unwrap_or_else(|_| Err(panicked()))
}

/// Runs `work` on a new thread. Returns its result. Use this function for work that waits for other
/// work. On the pool, such work would occupy the threads that the other work needs.
///
/// # Errors
/// Errors of `work`; `Internal` if it panicked; errors of starting a thread.
pub async fn apart<T, F>(name: &str, work: F) -> Result<T>
where
    T: Send + 'static,
    F: FnOnce() -> Result<T> + Send + 'static,
{
    let (answer, answered) = tokio::sync::oneshot::channel();
    let active = Active::begin();
    thread::Builder::new()
        .name(name.to_owned())
        .spawn(move || {
            let outcome = catch_unwind(AssertUnwindSafe(|| inline(work)));
            drop(active);
            // The caller may have gone away.
            let _ = answer.send(outcome.unwrap_or_else(|_| Err(panicked())));
        })?;
    answered.await.unwrap_or_else(|_| Err(panicked()))
}

/// Runs `work` on the pool, even if this thread may block, and does not wait for it.
pub(crate) fn start(work: impl FnOnce() + Send + 'static) {
    let active = Active::begin();
    // Sending fails only if no thread of the pool could be started.
    let _ = pool().send(Box::new(move || {
        let _ = catch_unwind(AssertUnwindSafe(work));
        drop(active);
    }));
}

/// The number of pieces of work that were given to another thread and have not ended.
static ACTIVE: AtomicUsize = AtomicUsize::new(0);

/// Counts one piece of work until it is dropped.
pub(crate) struct Active;

impl Active {
    pub(crate) fn begin() -> Self {
        ACTIVE.fetch_add(1, Ordering::SeqCst);
        Active
    }
}

impl Drop for Active {
    fn drop(&mut self) {
        ACTIVE.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Waits for at most `limit` until all work that this module and [`background`](crate::background)
/// gave to other threads has ended, including work whose future was dropped. Returns whether all
/// work has ended. A program calls this before it removes files that the work may write.
pub fn wait_until_idle(limit: Duration) -> bool {
    let begun = Instant::now();
    while ACTIVE.load(Ordering::SeqCst) > 0 {
        if begun.elapsed() > limit {
            return false;
        }
        thread::sleep(Duration::from_millis(1));
    }
    true
}

/// Returns whether [`run`] does its work on this thread.
pub(crate) fn may_block() -> bool {
    MAY_BLOCK.get()
}

fn panicked() -> Error {
    Error::internal("work on another thread panicked; please report it")
}

/// Runs `work` and returns its result. While `work` runs, this thread is marked as one that may
/// block. A call of [`run`] on this thread then does its work here, not on the pool.
pub fn inline<T>(work: impl FnOnce() -> T) -> T {
    /// Restores the mark, even if `work` panics and the panic is caught further up.
    struct Before(bool);
    impl Drop for Before {
        fn drop(&mut self) {
            MAY_BLOCK.set(self.0);
        }
    }
    let _before = Before(MAY_BLOCK.replace(true));
    work()
}

/// Drives a future to its end on this thread and returns its output. Synchronous code uses this
/// function to call the methods of async traits.
///
/// Work that the future gives to [`run`] runs inline. If the future needs a tokio runtime, the
/// caller must have entered the handle of the runtime.
pub fn wait<T>(future: impl Future<Output = T>) -> T {
    struct Signal(Mutex<bool>, Condvar);
    impl Wake for Signal {
        fn wake(self: Arc<Self>) {
            *lock(&self.0) = true;
            self.1.notify_one();
        }
    }
    // tokio makes a task yield after a certain amount of work, and nothing would wake the task
    // here.
    let mut future = std::pin::pin!(unconstrained(future));
    inline(|| {
        // Most futures are ready at once and need no waker.
        let mut idle = Context::from_waker(Waker::noop());
        if let Poll::Ready(out) = future.as_mut().poll(&mut idle) {
            return out;
        }
        let signal = Arc::new(Signal(Mutex::new(false), Condvar::new()));
        let waker = Waker::from(signal.clone());
        let mut context = Context::from_waker(&waker);
        loop {
            if let Poll::Ready(out) = future.as_mut().poll(&mut context) {
                return out;
            }
            let mut woken = lock(&signal.0);
            while !*woken {
                woken = signal.1.wait(woken).unwrap_or_else(PoisonError::into_inner);
            }
            *woken = false;
        }
    })
}

/// Yields to other tasks, on any executor.
pub(crate) async fn give_way() {
    let mut gave = false;
    poll_fn(|context| {
        if gave {
            return Poll::Ready(());
        }
        gave = true;
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

/// Returns the queue of the pool. The pool has one thread for each core, and at least two so that
/// hashing overlaps writing.
fn pool() -> &'static mpsc::Sender<Job> {
    static POOL: OnceLock<mpsc::Sender<Job>> = OnceLock::new();
    POOL.get_or_init(|| {
        let (jobs, queue) = mpsc::channel::<Job>();
        let queue = Arc::new(Mutex::new(queue));
        let threads = thread::available_parallelism().map_or(2, |cores| cores.get().max(2));
        for number in 0..threads {
            let queue = Arc::clone(&queue);
            // If a thread cannot be started, the others do its share.
            let _ = thread::Builder::new()
                .name(format!("cas-{number}"))
                .spawn(move || {
                    MAY_BLOCK.set(true);
                    while let Ok(job) = next(&queue) {
                        job();
                    }
                });
        }
        jobs
    })
}

fn next(queue: &Mutex<mpsc::Receiver<Job>>) -> std::result::Result<Job, mpsc::RecvError> {
    lock(queue).recv()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_nested_work_without_deadlock() {
        let sum = wait(async { run(|| wait(run(|| Ok(2)))).await.map(|two| two + 1) });
        assert_eq!(sum.unwrap(), 3);
    }

    #[test]
    fn a_panic_does_not_leave_the_thread_marked() {
        let failed = catch_unwind(|| inline(|| panic!("planted")));
        assert!(failed.is_err() && !MAY_BLOCK.get());
    }

    #[tokio::test]
    async fn a_panic_is_an_error_and_the_pool_stays_usable() {
        for _ in 0..8 {
            let failed = run::<(), _>(|| panic!("planted")).await;
            assert_eq!(
                failed.unwrap_err().kind(),
                crate::error::ErrorKind::Internal
            );
        }
        assert_eq!(run(|| Ok(1)).await.unwrap(), 1);
    }
}
