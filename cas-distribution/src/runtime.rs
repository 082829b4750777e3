//! A private tokio runtime for HTTP, because callers may be on any executor or none.

use std::future::Future;

use cas_core::runtime::PrivateRuntime;
use cas_core::{Error, Result};
use tokio::runtime::{Builder, Handle};
use tokio::task::JoinSet;

/// Runs `work` on the runtime. Returns its result. If the caller drops the future, `work` is
/// cancelled.
///
/// # Errors
/// Errors of `work`; `Internal` if it panicked; errors of [`handle`].
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
/// result. If the caller drops the future, `work` that has begun runs to its end.
///
/// # Errors
/// Errors of `work`; `Internal` if it panicked; errors of [`handle`].
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    let done = handle()?.spawn_blocking(work).await;
    done.map_err(|_| Error::internal("reading files panicked; please report it"))?
}

/// Returns a handle of the runtime. The first call starts the runtime.
///
/// # Errors
/// As [`PrivateRuntime::handle`].
pub(crate) fn handle() -> Result<&'static Handle> {
    static RUNTIME: PrivateRuntime = PrivateRuntime::new("cas-registry");
    RUNTIME.handle(|| {
        let mut builder = Builder::new_multi_thread();
        builder.enable_all();
        builder
    })
}
