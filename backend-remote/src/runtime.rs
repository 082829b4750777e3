//! The runtime that the clients of services want: ours, for callers may be on any executor or none.

use std::future::Future;
use std::sync::OnceLock;

use cas_core::{Error, Result};
use tokio::runtime::{Builder, Handle, Runtime};

const THREADS: usize = 2;
/// Threads for files, which block; tokio alone would start 512.
const BLOCKING: usize = 8;

/// Runs `work` on the runtime. It goes on to its end when the caller goes away: a step that
/// changes the bucket is not left half done by a caller that lost patience.
///
/// # Errors
/// Those of `work`; `Internal` when it panicked.
pub(crate) async fn run<T, F>(work: F) -> Result<T>
where
    T: Send + 'static,
    F: Future<Output = Result<T>> + Send + 'static,
{
    match patiently(handle()?.spawn(work)).await {
        Ok(outcome) => outcome,
        Err(_) => Err(Error::internal(
            "work on the runtime panicked; please report it",
        )),
    }
}

/// Waits outside of tokio's budget: where that is used up tokio wakes only after the task that
/// asks has yielded, which one that blocks in `cas_core::pool::wait` never does.
pub(crate) fn patiently<F: Future>(answer: F) -> impl Future<Output = F::Output> {
    tokio::task::coop::unconstrained(answer)
}

/// The runtime, started by who asks first.
///
/// # Errors
/// `Unavailable` when the system gives it no threads.
pub(crate) fn handle() -> Result<&'static Handle> {
    static RUNTIME: OnceLock<std::io::Result<Runtime>> = OnceLock::new();
    let started = RUNTIME.get_or_init(|| {
        let mut runtime = Builder::new_multi_thread();
        // Only a service is reached over sockets.
        #[cfg(feature = "s3")]
        runtime.enable_io();
        runtime
            .worker_threads(THREADS)
            .max_blocking_threads(BLOCKING)
            .thread_name("cas-remote")
            .enable_time()
            .build()
    });
    match started {
        Ok(runtime) => Ok(runtime.handle()),
        Err(error) => Err(Error::unavailable(format!("cannot start threads: {error}"))),
    }
}
