//! The seed of a run.

use std::time::{SystemTime, UNIX_EPOCH};

use crate::log::Log;

/// Returns the seed in the environment variable `CAS_KILLS_SEED`. If the variable is not set,
/// returns the seed of the run that this one continues. If there is none, takes a seed from the
/// clock, and adds it to the log.
pub(crate) fn seed(log: &Log) -> u64 {
    if let Ok(given) = std::env::var("CAS_KILLS_SEED") {
        return given.parse().expect("CAS_KILLS_SEED is a number");
    }
    log.seed().unwrap_or_else(|| {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        let seed = now.subsec_nanos().into();
        log.add_seed(seed);
        seed
    })
}
