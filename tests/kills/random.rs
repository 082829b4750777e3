//! Random numbers that can be repeated.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::log::Log;

/// A generator of numbers (splitmix64).
pub(crate) struct Random(u64);

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

impl Random {
    /// Returns the generator for a verb, whose numbers do not depend on the verbs before it.
    pub(crate) fn new(seed: u64, verb: &str) -> Self {
        let digest = cas::Digest::sha256(verb.as_bytes());
        let start = digest.as_bytes().first_chunk().copied();
        Random(seed ^ u64::from_le_bytes(start.unwrap_or_default()))
    }

    /// Returns a number below `bound`.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % bound
    }

    /// Returns a random duration below `time`, or zero if `time` is zero.
    pub(crate) fn within(&mut self, time: Duration) -> Duration {
        let nanos = u64::try_from(time.as_nanos()).unwrap();
        Duration::from_nanos(self.below(nanos.max(1)))
    }
}
