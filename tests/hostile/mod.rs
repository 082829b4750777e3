//! Hostile images, imported and unpacked in a plain tree and with each snapshotter that works here:
//! each image has the expected outcome, which is the same in all places, and nothing outside is
//! touched.
//!
//! Cases have neighbours, which a seed determines: the same image in other bytes, and similar
//! images. A trial of a case or a neighbour runs in a process that is watched, with bounds on time,
//! memory and disk.

mod attempt;
mod attributes;
mod cage;
mod cases;
mod confined;
mod member;
mod neighbours;
mod plan;
mod planted;
mod watch;

use std::time::Duration;

use plan::Plan;
use planted::Plant;
use watch::{BOUNDS, Bounds, watch};

use crate::common;

/// The seed of the quick check, which always makes the same trials.
const SEED: u64 = 1;

#[test]
fn hostile_layers_and_a_few_neighbours_do_the_same_everywhere_and_nothing_outside() {
    try_neighbours(SEED, 4, 1, 1);
}

/// `CAS_HOSTILE_SEED` and `CAS_HOSTILE_NEIGHBOURS` change the seed, and how many neighbours with
/// another meaning each case has.
#[test]
#[ignore = "takes minutes; `cargo xtask long` runs it"]
fn all_neighbours_of_hostile_layers_do_the_same_everywhere_and_nothing_outside() {
    let number = |name: &str, usual| {
        let given = std::env::var(name).ok();
        given.map_or(usual, |text| text.parse().expect("a number"))
    };
    let seed = number("CAS_HOSTILE_SEED", SEED);
    let other = number("CAS_HOSTILE_NEIGHBOURS", 100);
    try_neighbours(seed, 1, neighbours::REWRITES, other);
}

fn mounting_snapshotters() -> Vec<String> {
    let names = common::mounting_snapshotters().into_iter();
    names.map(str::to_owned).collect()
}

fn try_neighbours(seed: u64, every: usize, same: usize, other: u64) {
    if !common::can(&["mke2fs"]) {
        return;
    }
    let report = watch(&Plan {
        seed,
        only: None,
        every,
        same,
        other,
        bounds: BOUNDS,
        snapshotters: mounting_snapshotters(),
        plant: None,
    });
    let (refused, defined) = (report.refused, report.defined);
    eprintln!(
        "seed {seed}: {refused} images were refused, {defined} gave the same tree everywhere"
    );
    let wrong = report.wrong;
    assert!(
        wrong.is_empty(),
        "{} wrong:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
}

#[test]
fn planted_faults_are_reported() {
    if !common::can(&["mke2fs", "tar"]) {
        return;
    }
    const ABSOLUTE_NAMES: usize = 1;
    for (plant, said) in planted::ALL {
        let report = watch(&Plan {
            seed: SEED,
            only: Some(ABSOLUTE_NAMES),
            every: 1,
            same: 0,
            other: 0,
            bounds: Bounds {
                processor: Duration::from_secs(1),
                time: match plant {
                    Plant::Hang => Duration::from_secs(2),
                    _ => BOUNDS.time,
                },
                ..BOUNDS
            },
            snapshotters: vec!["native".to_owned()],
            plant: Some(plant),
        });
        let reported = report.wrong.iter().any(|line| line.contains(said));
        assert!(reported, "{plant:?}: {:?}", report.wrong);
    }
}
