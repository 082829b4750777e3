//! Any sequence of operations on a whole store, some of which fail, against plain maps that know
//! what must come of it.

mod holders;
mod look;
mod oracle;
mod play;
mod step;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use cas_core::pool;

use self::play::Play;
use super::Subject;
use crate::seed::runner;

const CASES: u32 = 100;
const LONGEST: usize = 60;
/// After this no more sequences are tried, nor shorter ones of one that disagrees.
const BUDGET: Duration = Duration::from_secs(7);

/// What one operation keeps no other loses, whichever failed before.
pub(super) async fn any_sequence_agrees_with_plain_maps(subject: Subject) {
    let (mut runner, seed) = runner(CASES);
    let (rounds, begun) = (AtomicUsize::new(0), Instant::now());
    let outcome = runner.run(&step::sequence(LONGEST), |steps| {
        if begun.elapsed() < BUDGET {
            let place = format!("sequence {}", rounds.fetch_add(1, Ordering::SeqCst));
            pool::wait(Play::sequence(&subject, &place, &steps));
        }
        Ok(())
    });
    if let Err(error) = outcome {
        panic!("with {seed} the shortest sequence that disagrees: {error}");
    }
}
