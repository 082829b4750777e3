//! Trials of all stores, with a log.

use std::fmt;
use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::path::Path;

use anyhow::{Context as _, Result};
use clap::{Args, ValueEnum};

use crate::kill::kill;
use crate::outcome::Outcome;
use crate::power::{self, FileSystem};
use crate::stack::{S3, Stack};
use crate::storm::storm;
use crate::work::Work;

const WORKS: [Work; 4] = [Work::Ingest, Work::Images, Work::Full, Work::Repair];
/// The number of disks that a trial of a loss of power checks. Each disk is in a state that the
/// loss can leave.
const DISKS: u64 = 50;
/// Some trials of a loss of power run two processes on this store. On every other store, each trial
/// of a loss of power runs one process.
const SHARED: &str = "fs";
/// The kinds of storms, each with a divisor. In a storm, workers change a root while collections
/// run back to back. A storm makes as many changes as `--changes` divided by its divisor.
const STORMS: [(Work, u64); 2] = [(Work::Storm, 1), (Work::LateStorm, 10)];
/// The number of kills of a trial.
const KILLS: u64 = 500;

/// A kind of trial.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Kind {
    Power,
    Kill,
    Storm,
}

/// What is tried, and how often.
#[derive(Args)]
pub(crate) struct Counts {
    /// The kinds of trials to run, separated by commas; by default all
    #[arg(long, value_enum, value_delimiter = ',')]
    only: Vec<Kind>,
    /// The stores to test; by default all local stores that this build contains, and for kills and
    /// storms also S3
    #[arg(long)]
    store: Vec<String>,
    /// Number of disks to check after losses of power, for each store on each file system, rounded
    /// up to a multiple of 50
    #[arg(long, default_value_t = 1000)]
    disks: u64,
    /// Number of kills for each store, rounded up to a multiple of 500
    #[arg(long, default_value_t = 10_000)]
    kills: u64,
    /// Number of changes that a storm makes, for each store with each snapshotter; a late storm, in
    /// which jobs lose their leases, makes a tenth of this number
    #[arg(long, default_value_t = 10_000)]
    changes: u64,
    /// Chooses the images, the changes, the disks and the moments of the kills
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

/// A trial, which gets a line in the log once it has ended.
enum Trial {
    Power(power::Trial),
    Kill(Stack, u64),
    Storm(Stack, Work, u64, u64),
}

impl fmt::Display for Trial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Trial::Power(trial) => write!(f, "power {trial}"),
            Trial::Kill(stack, seed) => write!(f, "kill {stack} {seed}"),
            Trial::Storm(stack, work, seed, changes) => {
                write!(f, "{} {stack} {seed} {changes}", work.name())
            }
        }
    }
}

impl Trial {
    fn run(&self) -> Result<Outcome> {
        match self {
            Trial::Power(trial) => trial.run(DISKS as usize, None),
            Trial::Kill(stack, seed) => kill(stack, Work::Load, KILLS, *seed),
            Trial::Storm(stack, work, seed, changes) => storm(stack, *work, *changes, *seed),
        }
    }
}

/// Runs each trial of `counts` that `log` does not list, and adds its result to `log`. Returns true
/// if neither these trials nor the trials of `counts` that `log` listed before found a violation.
/// Stops at the first trial that returns an error, and returns this error.
pub(crate) fn run(counts: &Counts, log: &Path) -> Result<bool> {
    let done = match log.exists() {
        true => fs::read_to_string(log)
            .with_context(|| format!("cannot read the log {}", log.display()))?,
        false => String::new(),
    };
    let opened = OpenOptions::new().append(true).create(true).open(log);
    let mut file = opened.with_context(|| format!("cannot open the log {}", log.display()))?;
    let mut sound = true;
    for trial in trials(counts) {
        let begin = format!("{trial}: ");
        let result = match done.lines().find_map(|line| line.strip_prefix(&begin)) {
            Some(result) => result.to_owned(),
            None => {
                let outcome = trial.run().with_context(|| trial.to_string())?;
                for violation in &outcome.violations {
                    println!("{trial}: {violation}");
                }
                writeln!(file, "{begin}{outcome}")?;
                println!("{begin}{outcome}");
                outcome.to_string()
            }
        };
        sound &= result.starts_with(Outcome::SOUND);
    }
    Ok(sound)
}

/// Returns the trials that `counts` describe. The trials of a store use the snapshotters in turn.
/// Trials of a loss of power also use the kinds of work in turn.
fn trials(counts: &Counts) -> Vec<Trial> {
    let stores = |all: &[&str]| match counts.store.is_empty() {
        true => all.iter().map(|store| (*store).to_owned()).collect(),
        false => counts.store.clone(),
    };
    let mut local: Vec<String> = stores(Stack::stores());
    // A store in S3 is not on the disk that loses power.
    local.retain(|store| store != S3);
    let every: Vec<String> = stores(&[Stack::stores(), &[S3]].concat());
    let wanted = |kind| counts.only.is_empty() || counts.only.contains(&kind);
    let seed = |round: u64| counts.seed.wrapping_mul(1_000_003).wrapping_add(round);
    let mut trials = Vec::new();
    if wanted(Kind::Power) {
        for round in 0..counts.disks.div_ceil(DISKS) {
            for (place, store) in local.iter().enumerate() {
                for (other, file_system) in FileSystem::value_variants().iter().enumerate() {
                    let turn = round as usize + place + other;
                    let work = WORKS[turn % WORKS.len()];
                    let is_shared = store == SHARED && matches!(work, Work::Ingest | Work::Images);
                    let has_two = is_shared && round / WORKS.len() as u64 % 2 == 1;
                    trials.push(Trial::Power(power::Trial {
                        stack: Stack::new(store, turn / WORKS.len()),
                        file_system: *file_system,
                        work,
                        processes: 1 + u64::from(has_two),
                        plant: None,
                        fault: None,
                        seed: seed(round),
                    }));
                }
            }
        }
    }
    if wanted(Kind::Kill) {
        for round in 0..counts.kills.div_ceil(KILLS) {
            for (place, store) in every.iter().enumerate() {
                let stack = Stack::new(store, round as usize + place);
                trials.push(Trial::Kill(stack, seed(round)));
            }
        }
    }
    if wanted(Kind::Storm) {
        for store in &every {
            for turn in 0..Stack::SNAPSHOTTERS.len() {
                let stack = Stack::new(store, turn);
                for (work, changes) in STORMS.map(|(work, of)| (work, counts.changes / of)) {
                    trials.push(Trial::Storm(stack.clone(), work, seed(0), changes));
                }
            }
        }
    }
    trials
}
