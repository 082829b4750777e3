//! Work that outlives the future that waits for it.
//!
//! A caller may drop a future at any point. Work that must not stop half-way, such as the creation
//! of a snapshot, is [shielded](shield). Guards clean up [in the background](run) when they are
//! dropped.

use std::future::{self, Future};
use std::mem;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::thread;

use tokio::runtime::Handle;

use crate::pool::{self, Active};

/// Runs a future to its end on a new thread, and returns at once. If no thread can be started, the
/// future is dropped. The end of the process also ends the work, so a program should call
/// [`pool::wait_until_idle`] before it ends.
///
/// If the caller runs on a tokio runtime, the future can use the timers and sockets of this
/// runtime, but only until the runtime ends. A future that must complete must not depend on them.
pub fn run(future: impl Future<Output = ()> + Send + 'static) {
    let runtime = Handle::try_current().ok();
    let active = Active::begin();
    let _ = thread::Builder::new()
        .name("cas-background".to_owned())
        .spawn(move || {
            let _entered = runtime.as_ref().map(Handle::enter);
            pool::wait(future);
            drop(active);
        });
}

/// Returns a future that does the same as `future`. If the returned future is dropped after its
/// first poll, the work continues [in the background](run), and its output is dropped when the work
/// ends. So if the output contains a guard, the guard still cleans up.
pub fn shield<T, F>(future: F) -> Shield<T>
where
    T: Send + 'static,
    F: Future<Output = T> + Send + 'static,
{
    Shield {
        future: Box::pin(future),
        is_running: false,
    }
}

/// The future that [`shield`] returns. Do not poll it after it has completed: the shielded future
/// may then panic, as the future of an `async` block does.
pub struct Shield<T: Send + 'static> {
    future: Pin<Box<dyn Future<Output = T> + Send>>,
    /// Whether the future has begun and has not ended.
    is_running: bool,
}

impl<T: Send + 'static> Future for Shield<T> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<T> {
        let polled = self.future.as_mut().poll(context);
        self.is_running = polled.is_pending();
        polled
    }
}

impl<T: Send + 'static> Drop for Shield<T> {
    fn drop(&mut self) {
        if self.is_running {
            let future = mem::replace(&mut self.future, Box::pin(future::pending()));
            run(async move { drop(future.await) });
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Sender, channel};
    use std::time::Duration;

    use super::*;

    /// Sends its number when it is dropped.
    struct Signal(Sender<u8>, u8);

    impl Drop for Signal {
        fn drop(&mut self) {
            let _ = self.0.send(self.1);
        }
    }

    #[test]
    fn what_has_begun_ends_although_it_is_dropped() {
        let (sender, dropped) = channel();
        let (open, gate) = tokio::sync::oneshot::channel::<()>();
        let mut shielded = shield(async move {
            let _ = gate.await;
            Signal(sender, 1)
        });
        let mut context = Context::from_waker(std::task::Waker::noop());
        assert!(Pin::new(&mut shielded).poll(&mut context).is_pending());
        drop(shielded);
        let early = dropped.recv_timeout(Duration::from_millis(20));
        assert!(early.is_err());
        open.send(()).unwrap();
        assert_eq!(dropped.recv_timeout(Duration::from_secs(60)), Ok(1));
    }

    #[test]
    #[should_panic = "resumed after completion"]
    fn a_future_that_is_polled_after_its_end_panics() {
        let mut shielded = shield(async {});
        let mut context = Context::from_waker(std::task::Waker::noop());
        assert!(Pin::new(&mut shielded).poll(&mut context).is_ready());
        let _ = Pin::new(&mut shielded).poll(&mut context);
    }

    #[test]
    fn what_has_not_begun_does_not_begin() {
        let (sender, dropped) = channel();
        let (began, signal) = (sender.clone(), Signal(sender, 2));
        drop(shield(async move {
            let _ = began.send(1);
            drop(signal);
        }));
        assert_eq!(dropped.recv_timeout(Duration::from_secs(60)), Ok(2));
        assert!(dropped.recv().is_err());
    }
}
