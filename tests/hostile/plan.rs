//! Which trials are made, and what is right for each.

use std::path::Path;

use serde::{Deserialize, Serialize};
use testkit::random::Random;

use super::attempt::{Tried, attempt};
use super::cage::Cage;
use super::cases::{self, Case, Make, Outcome};
use super::neighbours::{self, ADDED, REWRITES};
use super::planted::Plant;
use super::watch::{Bounds, Trials};
use crate::common::tree::{Tree, compare};

/// The cases, and how many neighbours each has.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Plan {
    pub(super) seed: u64,
    /// Only the case with this number, if one is given.
    pub(super) only: Option<usize>,
    /// One case of this number of cases has neighbours, and the others have none.
    pub(super) every: usize,
    /// How many neighbours with the same meaning are tried for such a case, at most [`REWRITES`].
    pub(super) same: usize,
    /// How many neighbours with another meaning are tried for such a case.
    pub(super) other: u64,
    pub(super) bounds: Bounds,
    /// The snapshotters that the images are unpacked with.
    pub(super) snapshotters: Vec<String>,
    /// A fault that the trials must report.
    pub(super) plant: Option<Plant>,
}

impl Plan {
    /// Makes the trials of each case from the case `from` on: itself, and its neighbours.
    pub(super) async fn run(&self, from: usize, place: &Path, trials: &mut Trials) {
        let cases = cases::ALL.into_iter().flatten().enumerate().skip(from);
        for (number, make) in cases {
            if self.only.is_none_or(|only| only == number) {
                self.run_case(number, *make, place, trials).await;
            }
        }
    }

    async fn run_case(&self, number: usize, make: Make, place: &Path, trials: &mut Trials) {
        let mut cage = Cage::new_in(place);
        let case = make(&cage);
        let name = &case.name;
        trials.begin(number, name);
        let mut tried = self.attempt(&mut cage, &case).await;
        let tree = tried.tree.take();
        end(trials, tried, Some(case.outcome));
        if !(number + self.seed as usize).is_multiple_of(self.every) {
            return;
        }
        for step in 0..self.same {
            let rewrite = (number + self.seed as usize + step) % REWRITES;
            let Some((how, neighbour)) = neighbours::same(&case, rewrite) else {
                continue;
            };
            trials.begin(number, &format!("{name} ({how})"));
            let mut tried = self.attempt(&mut cage, &neighbour).await;
            if let (Some(tree), Some(found)) = (&tree, tried.tree.take()) {
                tried.wrong.extend(differences(tree, found));
            }
            end(trials, tried, Some(case.outcome));
        }
        for step in 0..self.other {
            let mut random = Random::new(self.seed, &format!("{name} {step}"));
            let Some((how, neighbour)) = neighbours::other(&case, &mut random) else {
                continue;
            };
            trials.begin(number, &format!("{name}, {step}: {how}"));
            let tried = self.attempt(&mut cage, &neighbour).await;
            end(trials, tried, None);
        }
    }

    /// Makes one trial. If something is wrong, later trials get another cage.
    async fn attempt(&self, cage: &mut Cage, case: &Case) -> Tried {
        if let Some(plant) = self.plant {
            plant.before(cage, case, &self.bounds);
        }
        let mut tried = attempt(cage, case, &self.snapshotters).await;
        if self.plant == Some(Plant::Invert) {
            tried.outcome = match tried.outcome {
                Outcome::Harmless => Outcome::Refused(cas::ErrorKind::Corrupt),
                Outcome::Refused(_) => Outcome::Harmless,
            };
        }
        if !tried.wrong.is_empty() {
            *cage = cage.another();
        }
        tried
    }
}

/// Ends a trial, which must have the outcome `right`, if there is a right one.
fn end(trials: &Trials, mut tried: Tried, right: Option<Outcome>) {
    let found = tried.outcome;
    if let Some(right) = right.filter(|right| *right != found) {
        tried
            .wrong
            .push(format!("{found:?}, not {right:?}: {}", tried.said));
    }
    trials.end(found != Outcome::Harmless, tried.wrong);
}

/// Returns the differences between the tree of a case and the tree of a neighbour with the same
/// meaning.
fn differences(tree: &Tree, mut neighbour: Tree) -> Vec<String> {
    neighbour.retain(|path, _| {
        !path
            .as_os_str()
            .as_encoded_bytes()
            .starts_with(ADDED.as_bytes())
    });
    let found = compare(tree, &neighbour);
    found
        .iter()
        .map(|line| format!("not the tree of its case: {line}"))
        .collect()
}
