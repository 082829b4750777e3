//! The tokio runtime of this crate. OpenDAL needs a tokio runtime, but callers may use another
//! executor or none.

use std::future::Future;
use std::sync::OnceLock;
use std::time::Duration;

use cas_core::{Error, Result, pool};
use tokio::runtime::{Builder, Handle, Runtime};

const THREADS: usize = 2;
/// How long a thread for work that blocks stays idle. If such threads ended, tokio might panic
/// because it cannot start another one.
const IDLE: Duration = Duration::from_secs(365 * 86_400);
/// Maximum number of threads for file I/O, which blocks. The default of tokio is 512.
const BLOCKING: usize = 8;

/// Runs `work` on the runtime. Returns its result. `work` runs to its end even if the caller drops
/// the future. A cancelled caller therefore does not leave a change of the bucket half done.
///
/// # Errors
/// Errors of `work`; `Internal` if `work` panicked; errors of [`handle`].
pub(crate) async fn run<T, F>(work: F) -> Result<T>
where
    T: Send + 'static,
    F: Future<Output = Result<T>> + Send + 'static,
{
    match unconstrained(handle()?.spawn(work)).await {
        Ok(outcome) => outcome,
        Err(_) => Err(Error::internal(
            "a task of the store panicked; please report it",
        )),
    }
}

/// Polls a future outside of tokio's cooperative budget. When that budget is used up, tokio wakes
/// a task only after it has yielded, which a caller in `cas_core::pool::wait` never does.
pub(crate) fn unconstrained<F: Future>(future: F) -> impl Future<Output = F::Output> {
    tokio::task::coop::unconstrained(future)
}

/// Returns the runtime. The first call starts it.
///
/// # Errors
/// Errors of the system if the runtime cannot be set up, for example `OutOfRange` if the process
/// has too many open files or may not start threads.
pub(crate) fn handle() -> Result<&'static Handle> {
    static RUNTIME: OnceLock<std::io::Result<Runtime>> = OnceLock::new();
    let started = RUNTIME.get_or_init(|| {
        pool::check_threads(THREADS + 1)?;
        let mut runtime = Builder::new_multi_thread();
        // Only services are reached over sockets.
        #[cfg(feature = "s3")]
        runtime.enable_io();
        let runtime = runtime
            .worker_threads(THREADS)
            .max_blocking_threads(BLOCKING)
            .thread_keep_alive(IDLE)
            .thread_name("cas-remote")
            .enable_time()
            .build()?;
        runtime.spawn_blocking(|| {});
        Ok(runtime)
    });
    match started {
        Ok(runtime) => Ok(runtime.handle()),
        Err(error) => Err(Error::of_system(error)
            .unwrap_or_else(|| Error::unavailable(error.to_string()))
            .operation("start threads")),
    }
}
