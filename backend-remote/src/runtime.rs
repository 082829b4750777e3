//! The tokio runtime of this crate. OpenDAL needs a tokio runtime, but callers may use another
//! executor or none.

use std::future::Future;

use cas_core::runtime::PrivateRuntime;
use cas_core::{Error, Result};
use tokio::runtime::{Builder, Handle};

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
/// the task only after the thread has returned to tokio. A thread that waits in
/// `cas_core::pool::wait` does not return before it is woken, so it would wait forever.
pub(crate) fn unconstrained<F: Future>(future: F) -> impl Future<Output = F::Output> {
    tokio::task::coop::unconstrained(future)
}

/// Returns a handle of the runtime. The first call starts the runtime.
///
/// # Errors
/// As [`PrivateRuntime::handle`].
pub(crate) fn handle() -> Result<&'static Handle> {
    static RUNTIME: PrivateRuntime = PrivateRuntime::new("cas-remote");
    RUNTIME.handle(|| {
        let mut builder = Builder::new_multi_thread();
        builder.enable_time();
        // Only services are reached over sockets.
        #[cfg(feature = "s3")]
        builder.enable_io();
        builder
    })
}
