//! Retrying a compare-and-swap that lost against another writer.

use crate::error::{ErrorKind, Result};

/// Maximum number of attempts of a compare-and-swap.
pub(crate) const ATTEMPTS: usize = 64;

/// Runs `attempt`, and repeats it while it fails with `Conflict`, at most 64 times in all. Returns
/// the result of the last attempt.
///
/// # Errors
/// Errors of the last attempt.
pub async fn retry<T, F>(attempt: impl Fn() -> F + Send) -> Result<T>
where
    F: Future<Output = Result<T>> + Send,
{
    for _ in 1..ATTEMPTS {
        match attempt().await {
            Err(error) if error.kind() == ErrorKind::Conflict => {}
            outcome => return outcome,
        }
    }
    attempt().await
}
