//! Bounds on compare-and-swap loops.

use cas_core::Error;

/// Maximum number of attempts of a compare-and-swap. Another writer may win each of them.
pub(crate) const ATTEMPTS: usize = 64;

/// Returns the error for a swap whose attempts all failed.
pub(crate) fn contended(path: &str) -> Error {
    let why = "other writers changed this object first, in every attempt; retry later";
    Error::unavailable(why).subject(path)
}
