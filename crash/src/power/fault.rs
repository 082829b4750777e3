//! Faults of a disk.

use std::time::Duration;

use clap::ValueEnum;
use testkit::random::Random;

/// What a faulty disk does to some of its requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Fault {
    /// Reads fail.
    Read,
    /// Writes fail.
    Write,
    /// The first half of a write is made, and the write fails.
    Short,
    /// Flushes fail.
    Flush,
    /// Writes take a tenth of a second longer.
    Slow,
    /// All flushes are acknowledged but not made, so the checks must find violations.
    Lie,
    /// Power is not lost, but later, bits change in blocks that were written. `fsck` must find
    /// damage if blobs or unpacked files have other bytes.
    Rot,
}

impl Fault {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Fault::Read => "read",
            Fault::Write => "write",
            Fault::Short => "short",
            Fault::Flush => "flush",
            Fault::Slow => "slow",
            Fault::Lie => "lie",
            Fault::Rot => "rot",
        }
    }

    /// How much longer a slow write takes.
    pub(crate) const DELAY: Duration = Duration::from_millis(100);

    /// Returns the numbers of the requests that the fault hits. Only requests that the fault may
    /// hit, such as reads for `Read`, have numbers. The first of them in a record has the number 0.
    pub(crate) fn hits(self, random: &mut Random) -> std::ops::Range<u64> {
        let (first, count) = match self {
            Fault::Lie => return 0..u64::MAX,
            Fault::Rot => return 0..0,
            // A disk has fewer flushes than writes.
            Fault::Flush => (random.below(400), 3),
            Fault::Read => (random.below(100), 20),
            Fault::Write | Fault::Short | Fault::Slow => (random.below(1500), 20),
        };
        first..first + count
    }
}
