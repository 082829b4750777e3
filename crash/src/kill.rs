//! Kills of processes at random moments while they work.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::Child;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use testkit::random::Random;

use crate::outcome::Outcome;
use crate::site::Site;
use crate::stack::Stack;
use crate::work::Work;

/// In the first round, each process is killed at a random moment within this time. A process opens
/// the root in about a tenth of this time, unless the machine is busy. So the time is doubled after
/// each round in which no process did anything, but not beyond [`LONGEST_LIFE`]. After every other
/// round, the time is halved, but not below `LIFE`.
const LIFE: Duration = Duration::from_millis(400);
const LONGEST_LIFE: Duration = Duration::from_secs(30);
/// The number of rounds after which the whole root is compared with the promises and emptied.
const ROUNDS: u64 = 50;

/// Starts processes that do `work` and kills them, in rounds, until at least `kills` processes were
/// killed. `work` must be a kind of work that never ends by itself. A round kills each process of a
/// [`Site`] once. After each round, compares what the processes have changed with what they were
/// promised. After every [`ROUNDS`] rounds and after the last round, compares the whole root with
/// the promises, and empties the root. The first round in which a violation is found is the last
/// round.
pub(crate) fn kill(stack: &Stack, work: Work, kills: u64, seed: u64) -> Result<Outcome> {
    let mut site = Site::new(stack, seed)?;
    let mut random = Random::new(seed, "kills");
    let mut outcome = Outcome {
        tried: 0,
        what: "kills".into(),
        violations: Vec::new(),
    };
    let mut life = LIFE;
    for round in 1.. {
        let killed = strike(&site, work, life, &mut random)?;
        outcome.tried += killed.number;
        outcome.violations = killed.failed;
        let named = site.read_marks()?;
        life = match named.is_empty() {
            true => LONGEST_LIFE.min(2 * life),
            false => LIFE.max(life / 2),
        };
        outcome.violations.extend(lines(site.compare(&named)));
        let is_last = outcome.tried >= kills || !outcome.violations.is_empty();
        if is_last || round % ROUNDS == 0 {
            let found = site.compare_all();
            outcome.violations.extend(lines(found));
        }
        if is_last || !outcome.violations.is_empty() {
            break;
        }
    }
    Ok(outcome)
}

/// Returns the violations that a comparison found. If the comparison failed, returns its error as
/// the only line.
fn lines(found: Result<Vec<String>>) -> Vec<String> {
    found.unwrap_or_else(|error| vec![format!("{error:#}")])
}

/// What happened in a round of kills.
struct Killed {
    /// How many workers were killed.
    number: u64,
    /// The status and the messages of each worker that ended before it was killed.
    failed: Vec<String>,
}

/// Starts all processes, and kills each at a random moment of the time `life`.
fn strike(site: &Site, work: Work, life: Duration, random: &mut Random) -> Result<Killed> {
    let mut killed = Killed {
        number: 0,
        failed: Vec::new(),
    };
    let begun = Instant::now();
    let mut workers = Vec::new();
    for process in 0..site.processes {
        let mut worker = site.worker(work, random.below(u64::MAX), process);
        let said = site.path(&format!("said{process}"));
        let child = worker.stderr(File::create(&said)?).spawn();
        let child = child.context("cannot start a worker")?;
        workers.push((random.within(life), child, said));
    }
    workers.sort_by_key(|(moment, ..)| *moment);
    for (moment, worker, said) in workers {
        thread::sleep(moment.saturating_sub(begun.elapsed()));
        match end(worker, said)? {
            None => killed.number += 1,
            Some(said) => killed.failed.push(said),
        }
    }
    Ok(killed)
}

/// Kills a worker. If the worker had ended before, returns its status and its messages.
fn end(mut worker: Child, said: PathBuf) -> Result<Option<String>> {
    worker.kill()?;
    let status = worker.wait()?;
    Ok(match status.code() {
        None => None,
        Some(_) => Some(format!("{status}: {}", fs::read_to_string(said)?)),
    })
}
