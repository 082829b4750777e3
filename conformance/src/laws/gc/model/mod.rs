//! Runs random sequences of operations on a whole store. Some of the operations are made to fail.
//! Compares the store with its expected state, which is kept in plain maps.

mod check;
mod holders;
mod oracle;
mod run;
mod step;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use cas_core::pool;

use self::run::Run;
use super::Subject;
use crate::seed::runner;

const CASES: u32 = 100;
const LONGEST: usize = 60;
/// The time after which no more sequences are tried, and a failing sequence is not shortened
/// further.
const BUDGET: Duration = Duration::from_secs(7);

pub(super) async fn any_sequence_agrees_with_plain_maps(subject: Subject) {
    let (mut runner, seed) = runner(CASES);
    let (rounds, begun) = (AtomicUsize::new(0), Instant::now());
    let outcome = runner.run(&step::sequence(LONGEST), |steps| {
        if begun.elapsed() < BUDGET {
            let name = format!("sequence {}", rounds.fetch_add(1, Ordering::SeqCst));
            pool::wait(Run::sequence(&subject, &name, &steps));
        }
        Ok(())
    });
    if let Err(error) = outcome {
        panic!("a random sequence failed; to repeat the run, set {seed}: {error}");
    }
}
