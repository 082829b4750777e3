//! Keys that are unique among all machines.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::{SystemTime, UNIX_EPOCH};

/// Returns a unique key that begins with `purpose`.
pub fn key(purpose: &str) -> String {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    let seconds = since.unwrap_or_default().as_secs();
    // Every `RandomState` hashes with other keys. A thread's first keys are the system's random
    // numbers.
    let [one, other] = [(), ()].map(|()| RandomState::new().build_hasher().finish());
    format!("{purpose}-{seconds:x}-{one:016x}{other:016x}")
}
