//! Reproducible random numbers.

use std::time::Duration;

use cas_core::Digest;

/// A generator of numbers (splitmix64).
pub struct Random(u64);

impl Random {
    /// Returns a generator for the task with this name. Other tasks with the same seed get other
    /// numbers.
    pub fn new(seed: u64, task: &str) -> Self {
        let digest = Digest::sha256(task.as_bytes());
        let start = digest.as_bytes().first_chunk().copied();
        Random(seed ^ u64::from_le_bytes(start.unwrap_or_default()))
    }

    /// Returns a number below `bound`. `bound` must be at least 1.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    /// Returns a random duration below `time`, or zero if `time` is zero.
    pub fn within(&mut self, time: Duration) -> Duration {
        let nanos = u64::try_from(time.as_nanos()).unwrap();
        Duration::from_nanos(self.below(nanos.max(1)))
    }

    /// Returns `length` random bytes, which no compression makes smaller.
    pub fn bytes(&mut self, length: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(length + 8);
        while bytes.len() < length {
            bytes.extend(self.next().to_le_bytes());
        }
        bytes.truncate(length);
        bytes
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}
