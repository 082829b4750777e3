//! A private tokio runtime for HTTP, because callers may be on any executor or none.

use std::future::Future;
use std::sync::OnceLock;
use std::time::Duration;

use cas_core::{Error, Result, pool};
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::task::JoinSet;

const THREADS: usize = 2;
/// How long a thread for work that blocks stays idle. If such threads ended, tokio might panic
/// because it cannot start another one.
const IDLE: Duration = Duration::from_secs(365 * 86_400);
/// Maximum number of threads for name lookups and for reading files, which block. tokio's default
/// is 512.
const BLOCKING: usize = 8;

/// Runs `work` on the runtime. Returns its result. If the caller drops the future, `work` is
/// cancelled.
///
/// # Errors
/// Errors of `work`; `Internal` if it panicked; as [`handle`].
pub(crate) async fn run<T, F>(work: F) -> Result<T>
where
    T: Send + 'static,
    F: Future<Output = Result<T>> + Send + 'static,
{
    let mut alone = JoinSet::new();
    alone.spawn_on(work, handle()?);
    match alone.join_next().await {
        Some(Ok(outcome)) => outcome,
        _ => Err(Error::internal(
            "a task of the registry client panicked; please report it",
        )),
    }
}

/// Runs `work`, which may block on files, on a thread of the runtime for such work. Returns its
/// result.
///
/// # Errors
/// Errors of `work`; `Internal` if it panicked; as [`handle`].
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    let done = handle()?.spawn_blocking(work).await;
    done.map_err(|_| Error::internal("reading files panicked; please report it"))?
}

/// Returns the runtime. The first call starts it. If that fails, later calls return the same error.
///
/// # Errors
/// Errors of the system, such as `OutOfRange` at a limit, if its threads cannot be started.
pub(crate) fn handle() -> Result<&'static Handle> {
    static RUNTIME: OnceLock<std::io::Result<Runtime>> = OnceLock::new();
    let started = RUNTIME.get_or_init(|| {
        pool::check_threads(THREADS + 1)?;
        let runtime = Builder::new_multi_thread()
            .worker_threads(THREADS)
            .max_blocking_threads(BLOCKING)
            .thread_keep_alive(IDLE)
            .thread_name("cas-registry")
            .enable_all()
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
