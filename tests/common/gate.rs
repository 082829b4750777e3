//! A gate before the pool, so that a test drops a future between two pieces of its work.

use std::future::Future;
use std::pin::pin;
use std::sync::{Arc, Barrier, Mutex, MutexGuard, PoisonError, mpsc};
use std::task::{Context, Poll, Waker};
use std::thread;

use cas_core::pool;

/// Keeps the threads of the pool busy, so that work which is passed to the pool waits.
pub(crate) struct Gate {
    /// What holds the threads: each is free when its sender is dropped.
    held: Vec<mpsc::Sender<()>>,
    /// Two gates would wait for each other's threads.
    _only: MutexGuard<'static, ()>,
}

impl Gate {
    /// Waits until the work that was passed to the pool has ended, and lets no later work begin.
    pub(crate) fn close() -> Self {
        static ONLY: Mutex<()> = Mutex::new(());
        let only = ONLY.lock().unwrap_or_else(PoisonError::into_inner);
        let held = hold();
        Gate { held, _only: only }
    }

    /// Lets the work that waits run to its end.
    fn let_through(&mut self) {
        self.held.clear();
        self.held = hold();
    }
}

/// Gives each thread of the pool work that ends when its sender is dropped. Waits until each thread
/// has begun it.
fn hold() -> Vec<mpsc::Sender<()>> {
    let threads = thread::available_parallelism().map_or(2, |cores| cores.get().max(2));
    let begun = Arc::new(Barrier::new(threads + 1));
    let hold = |_: usize| {
        let (sender, held) = mpsc::channel::<()>();
        let begun = Arc::clone(&begun);
        let work = pin!(pool::run(move || {
            begun.wait();
            let _ = held.recv();
            Ok(())
        }));
        let polled = work.poll(&mut Context::from_waker(Waker::noop()));
        assert!(polled.is_pending());
        sender
    };
    let held = (0..threads).map(hold).collect();
    begun.wait();
    held
}

/// Polls a future this many times, and drops it. Between two polls, the pool does the work that the
/// future has passed to it. Between the last poll and the drop, it does not. Returns the output of
/// the future, if it was complete.
pub(crate) fn polled<T>(times: usize, future: impl Future<Output = T>) -> Option<T> {
    let mut gate = Gate::close();
    let mut future = pin!(future);
    for time in 0..times {
        if time > 0 {
            gate.let_through();
        }
        let mut context = Context::from_waker(Waker::noop());
        if let Poll::Ready(output) = future.as_mut().poll(&mut context) {
            return Some(output);
        }
    }
    None
}
