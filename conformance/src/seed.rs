//! Sequences at random that can be had again.

use std::env;
use std::time::SystemTime;

use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

/// The environment variable that has the sequences of an earlier run tried again.
const SEED: &str = "CONFORMANCE_SEED";
/// How often a sequence that disagrees is made shorter.
const SHRINKS: u32 = 256;

/// What tries so many sequences, and the words that have it try them again.
pub(crate) fn runner(cases: u32) -> (TestRunner, String) {
    let given = env::var(SEED).ok();
    let seed = given.map_or_else(other, |given| given.parse().expect("a seed is a number"));
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

/// Another each time.
fn other() -> u64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    now.map_or(0, |now| now.subsec_nanos().into())
}
