//! Random numbers that can be repeated.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A generator of numbers (splitmix64).
pub(crate) struct Random(u64);

impl Random {
    /// Returns a generator with the seed in the environment variable `CAS_KILLS_SEED`, or with one
    /// from the clock. Prints the seed after `what`, which says what it is for.
    pub(crate) fn from_environment(what: &str) -> Self {
        let given = std::env::var("CAS_KILLS_SEED").ok();
        let seed = match given {
            Some(seed) => seed.parse().expect("CAS_KILLS_SEED is a number"),
            None => {
                let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
                now.subsec_nanos().into()
            }
        };
        eprintln!("{what}: CAS_KILLS_SEED={seed}");
        Random(seed)
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
