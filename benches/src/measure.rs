//! Medians of nine rounds. Each run of a bench also prints how long the machine takes to sync a
//! small file and to hash 64 MiB, so that the medians can be compared with these times.

use std::fmt;
use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Result;
use cas::Digest;
use tempfile::TempDir;
use workload::data;

/// Number of rounds.
pub const ROUNDS: usize = 9;
/// Number of bytes that are hashed.
const HASHED: usize = 64 << 20;
/// Number of bytes that are written before a sync.
const SYNCED: usize = 4 << 10;

/// How long the rounds took.
#[derive(Clone, Copy, Debug)]
pub struct Taken {
    /// The quickest round.
    pub least: Duration,
    /// The round in the middle.
    pub median: Duration,
    /// The slowest round.
    pub most: Duration,
}

impl Taken {
    /// Returns a text such as `goal 10ms met`. The last word is `MISSED` if the median exceeds the
    /// goal.
    pub fn verdict(&self, goal: Duration) -> String {
        format!("goal {goal:?} {}", verdict(self.median <= goal))
    }
}

impl fmt::Display for Taken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Taken {
            least,
            median,
            most,
        } = self;
        write!(f, "{median:.1?} ({least:.1?} to {most:.1?})")
    }
}

/// Calls `round` nine times. Each call does a round and returns how long the round took. Returns
/// the shortest, the median and the longest time.
///
/// # Errors
/// The first error of `round`.
pub fn nine(mut round: impl FnMut() -> Result<Duration>) -> Result<Taken> {
    let taken: Result<Vec<Duration>> = (0..ROUNDS).map(|_| round()).collect();
    let mut taken = taken?;
    taken.sort_unstable();
    Ok(Taken {
        least: taken[0],
        median: taken[ROUNDS / 2],
        most: taken[ROUNDS - 1],
    })
}

/// Calls `work`. Returns how long the call took, and the result of `work`.
pub fn time<T>(work: impl FnOnce() -> T) -> (Duration, T) {
    let begun = Instant::now();
    let outcome = work();
    (begun.elapsed(), outcome)
}

/// Returns the word for whether a goal is met: `met` or `MISSED`.
pub fn verdict(met: bool) -> &'static str {
    if met { "met" } else { "MISSED" }
}

/// Returns a new directory for a bench, in the directory that the environment variable
/// `CAS_BENCH_ON` names. If the variable is not set, the new directory is in `/dev/shm`, or in the
/// system's directory for temporary files if it cannot be created in `/dev/shm`.
///
/// # Errors
/// Errors of the file system.
pub fn place() -> Result<TempDir> {
    Ok(match std::env::var_os("CAS_BENCH_ON") {
        Some(on) => TempDir::new_in(on)?,
        None => TempDir::new_in(crate::scratch::MEMORY).or_else(|_| TempDir::new())?,
    })
}

/// Measures nine times how long a sync of a 4 KiB file in `directory` takes, and how long the
/// SHA-256 of 64 MiB takes. Prints the median, the shortest and the longest time of each.
///
/// # Errors
/// Errors of the file system.
pub fn print_floors(directory: &Path) -> Result<()> {
    let (path, small) = (directory.join("synced"), data::bytes(1, SYNCED));
    let sync = nine(|| {
        let mut file = File::create(&path)?;
        file.write_all(&small)?;
        let (taken, synced) = time(|| file.sync_all());
        synced?;
        Ok(taken)
    })?;
    std::fs::remove_file(&path)?;
    let large = data::bytes(2, HASHED);
    let hash = nine(|| Ok(time(|| std::hint::black_box(Digest::sha256(&large))).0))?;
    println!("median of {ROUNDS} rounds (least to most); fsync: {sync}; SHA-256 of 64 MiB: {hash}");
    Ok(())
}
