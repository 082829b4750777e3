//! Keys that nobody else makes, on this machine or another.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::{SystemTime, UNIX_EPOCH};

/// A key that begins with `purpose`.
pub fn key(purpose: &str) -> String {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    let seconds = since.unwrap_or_default().as_secs();
    // Each state is keyed anew, from what the system gives as random.
    let [one, other] = [(), ()].map(|()| RandomState::new().build_hasher().finish());
    format!("{purpose}-{seconds:x}-{one:016x}{other:016x}")
}
