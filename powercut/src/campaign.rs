//! Trials of all stores on all file systems.

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::path::Path;

use anyhow::{Context as _, Result};
use clap::ValueEnum as _;

use crate::file_system::FileSystem;
use crate::trial::Trial;
use crate::work::Work;

/// The stores, as in `cas --store`.
const STORES: &[&str] = &[
    "fs",
    "redb",
    #[cfg(feature = "rocksdb")]
    "rocksdb",
    "dir",
    "by-size://?small=redb&large=fs&threshold=64KiB",
];
const SNAPSHOTTERS: [&str; 3] = ["overlay", "native", "erofs"];
const WORKS: [Work; 3] = [Work::Ingest, Work::Images, Work::Full];
/// The number of disks that are checked for each record.
const STATES: usize = 50;

/// Checks `states` disks for each store on each file system. Leaves out the trials that `log`
/// lists, and adds each trial that has ended. Returns whether no disk breaks a promise, in this run
/// or in those that wrote `log`.
pub(crate) fn run(states: usize, seed: u64, log: &Path) -> Result<bool> {
    let done = match log.exists() {
        true => fs::read_to_string(log).context("read the log")?,
        false => String::new(),
    };
    let mut file = OpenOptions::new().append(true).create(true).open(log)?;
    let (mut checked, mut bad) = (0, 0);
    for trial in trials(states.div_ceil(STATES) as u64, seed) {
        let begin = format!("{trial}: ");
        let old = done.lines().find_map(|line| line.strip_prefix(&begin));
        let line = match old {
            Some(line) => line.to_owned(),
            None => {
                let outcome = trial.run(STATES, None).with_context(|| trial.to_string())?;
                for violation in &outcome.violations {
                    println!("{trial}: {violation}");
                }
                let line = format!("{} of {} disks", outcome.violations.len(), outcome.states);
                writeln!(file, "{begin}{line}")?;
                println!("{begin}{line}");
                line
            }
        };
        let numbers: Vec<usize> = line
            .split(' ')
            .filter_map(|word| word.parse().ok())
            .collect();
        if let [violations, states] = numbers[..] {
            bad += violations;
            checked += states;
        }
    }
    println!("{bad} of {checked} disks break a promise");
    Ok(bad == 0)
}

/// Returns `rounds` trials of each store on each file system. The works and the snapshotters take
/// turns.
fn trials(rounds: u64, seed: u64) -> impl Iterator<Item = Trial> {
    (0..rounds).flat_map(move |round| {
        STORES.iter().enumerate().flat_map(move |(place, store)| {
            let file_systems = FileSystem::value_variants().iter().enumerate();
            file_systems.map(move |(other, file_system)| {
                let turn = round as usize + place + other;
                Trial {
                    store: (*store).to_owned(),
                    snapshotter: SNAPSHOTTERS[(turn / WORKS.len()) % SNAPSHOTTERS.len()].to_owned(),
                    file_system: *file_system,
                    work: WORKS[turn % WORKS.len()],
                    plant: None,
                    seed: seed.wrapping_mul(1_000_003).wrapping_add(round),
                }
            })
        })
    })
}
