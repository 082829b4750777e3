//! Bounds on compare-and-swap loops.

use cas_core::Error;

/// Attempts of a swap, each of which another writer may win.
pub(crate) const ATTEMPTS: usize = 64;

/// Returns the error for a swap that lost all its attempts.
pub(crate) fn contended(path: &str) -> Error {
    Error::unavailable("too much contention on this object; retry later").subject(path)
}
