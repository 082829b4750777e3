//! Makes random sequences of operations, which can be repeated from a seed.

use std::env;
use std::time::SystemTime;

use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

/// The environment variable with the seed of an earlier run.
const SEED: &str = "CONFORMANCE_SEED";
/// Maximum number of attempts to make a failing sequence shorter.
const SHRINKS: u32 = 256;

/// Returns a runner for `cases` sequences, and the text `CONFORMANCE_SEED=...` that repeats them.
pub(crate) fn runner(cases: u32) -> (TestRunner, String) {
    let given = env::var(SEED).ok();
    let seed = given.map_or_else(other, |given| {
        given.parse().expect("CONFORMANCE_SEED must be a number")
    });
    let mut long = [0; 32];
    long[..8].copy_from_slice(&seed.to_le_bytes());
    let config = Config {
        cases,
        failure_persistence: None,
        max_shrink_iters: SHRINKS,
        ..Config::default()
    };
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &long);
    (
        TestRunner::new_with_rng(config, rng),
        format!("{SEED}={seed}"),
    )
}

/// Returns a seed from the clock.
fn other() -> u64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    now.map_or(0, |now| now.subsec_nanos().into())
}
