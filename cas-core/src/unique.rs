//! Keys that are unique among all machines.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::{SystemTime, UNIX_EPOCH};

/// Returns a unique key that begins with `purpose`.
pub fn key(purpose: &str) -> String {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    let seconds = since.unwrap_or_default().as_secs();
    // Each `RandomState` has keys that differ from those of the `RandomState` before. A thread gets
    // its first keys from the random numbers of the system.
    let [one, other] = [(), ()].map(|()| RandomState::new().build_hasher().finish());
    format!("{purpose}-{seconds:x}-{one:016x}{other:016x}")
}
