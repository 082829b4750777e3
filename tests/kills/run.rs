//! All verbs of one store and one snapshotter, and their kills.

use std::time::{Duration, Instant};

use testkit::random::Random;

use crate::common::{can, ok};
use crate::inventory::Inventory;
use crate::log::Log;
use crate::place::Place;
use crate::strike::{End, kill, measure};
use crate::verbs::{self, Verb};

/// After how many kills a verb is measured again.
const MEASURED: u64 = 20;
/// After how many kills what is left is checked, on average.
const CHECKED: u64 = 3;
/// Maximum number of leftovers that are reported.
const SHOWN: usize = 12;
/// The programs that the verbs start.
pub(crate) const PROGRAMS: &[&str] = &["mke2fs", "mount", "runc"];
/// The number of kills of each verb if `CAS_KILLS` is not set.
const KILLS: u64 = 300;
/// The number of kills of each verb in `cargo xtask check`.
#[cfg(feature = "aci")]
const FEW: u64 = 2;

/// A place, and what exists there if nothing was ever killed.
pub(crate) struct World {
    pub(crate) place: Place,
    unharmed: Inventory,
}

/// How often a verb was killed, or failed, and what was left of that.
pub(crate) struct Struck {
    pub(crate) times: u64,
    pub(crate) left: Vec<String>,
}

impl World {
    pub(crate) fn new(store: &str, snapshotter: &str, verbs: &[&Verb]) -> Self {
        let mut place = Place::new(store, snapshotter);
        #[cfg(feature = "registry")]
        if place.registry.is_some() {
            crate::verbs::registry::fill(&place);
        }
        for verb in verbs {
            place.round += 1;
            (verb.prepare)(&place);
            ok(&mut (verb.command)(&place));
            (verb.recover)(&place);
        }
        place.collect();
        assert_eq!(place.damage(), Vec::<String>::new(), "before any kill");
        let unharmed = place.inventory();
        World { place, unharmed }
    }

    /// Kills a verb many times, until a collection leaves something.
    fn kill_verb(&mut self, verb: &Verb, kills: u64, mut random: Random) -> Struck {
        let (mut killed, mut missed, begun) = (0, 0, Instant::now());
        let (mut time, mut left) = (Duration::ZERO, Vec::new());
        while killed < kills && left.is_empty() {
            if killed % MEASURED == 0 {
                time = self.measure(verb);
            }
            match self.kill(verb, random.within(time)) {
                End::Killed => killed += 1,
                End::Itself(faster) => {
                    missed += 1;
                    time = faster;
                }
            }
            if random.below(CHECKED) == 0 || killed == kills {
                left = self.left(verb);
            }
        }
        self.add_damage(&mut left);
        let (name, spent) = (verb.name, begun.elapsed().as_secs());
        let result = if left.is_empty() {
            "nothing left"
        } else {
            "LEFT"
        };
        eprintln!(
            "  {name}: {killed} kills within {time:?}, {missed} missed, {result} ({spent} s)"
        );
        Struck {
            times: killed,
            left,
        }
    }

    /// Adds what is damaged to what is left, and shortens the latter.
    pub(crate) fn add_damage(&self, left: &mut Vec<String>) {
        left.truncate(SHOWN);
        left.extend(self.place.damage());
    }

    fn measure(&mut self, verb: &Verb) -> Duration {
        self.place.round += 1;
        (verb.prepare)(&self.place);
        measure(&mut (verb.command)(&self.place))
    }

    fn kill(&mut self, verb: &Verb, moment: Duration) -> End {
        self.place.round += 1;
        (verb.prepare)(&self.place);
        kill(&mut (verb.command)(&self.place), moment)
    }

    /// Returns what a collection leaves.
    pub(crate) fn left(&self, verb: &Verb) -> Vec<String> {
        (verb.recover)(&self.place);
        self.place.await_processes();
        self.place.collect();
        self.place.inventory().differences(&self.unharmed)
    }
}

/// Kills the verbs of [`verbs::of`], and reports together what was left of any.
pub(crate) fn kill_all(store: &str, snapshotter: &str) {
    kill_chosen(store, snapshotter, verbs::of(store, snapshotter));
}

/// Kills the verbs of layers that are read on demand.
#[cfg(feature = "on-demand")]
pub(crate) fn kill_on_demand(store: &str) {
    if can(&[crate::common::docker::PROGRAM]) {
        kill_chosen(store, "erofs", verbs::on_demand::VERBS.iter().collect());
    }
}

fn kill_chosen(store: &str, snapshotter: &str, verbs: Vec<&'static Verb>) {
    if !can(PROGRAMS) || !crate::bucket::can_use(store) {
        return;
    }
    let kills = std::env::var("CAS_KILLS").map_or(KILLS, |number| number.parse().unwrap());
    kill_each(store, snapshotter, &chosen(verbs), kills);
}

/// Kills each of `verbs` a few times.
#[cfg(feature = "aci")]
pub(crate) fn kill_few(store: &str, snapshotter: &str, verbs: &'static [Verb]) {
    let verbs: Vec<&Verb> = verbs.iter().collect();
    kill_each(store, snapshotter, &verbs, FEW);
}

fn kill_each(store: &str, snapshotter: &str, verbs: &[&Verb], kills: u64) {
    let log = Log::from_environment(store, snapshotter);
    let seed = crate::seed::seed(&log);
    eprintln!("{store} on {snapshotter}: CAS_KILLS_SEED={seed}");
    strike_each(store, snapshotter, "", verbs, kills, |world, verb| {
        world.kill_verb(verb, kills, Random::new(seed, verb.name))
    });
}

/// Strikes each of `verbs` that was not struck `times` times according to the log, and adds it to
/// the log. In the log, `which` follows the name of the verb. Panics at the end if something was
/// left of a verb.
pub(crate) fn strike_each(
    store: &str,
    snapshotter: &str,
    which: &str,
    verbs: &[&Verb],
    times: u64,
    strike: impl Fn(&mut World, &Verb) -> Struck,
) {
    let log = Log::from_environment(store, snapshotter);
    let mut verbs = verbs.to_vec();
    let entry = |verb: &Verb| format!("{}{which}", verb.name);
    verbs.retain(|verb| !log.has(&entry(verb), times));
    if verbs.is_empty() {
        eprintln!("SKIPPED: {store} on {snapshotter}: no chosen verb is left");
        return;
    }
    let mut world = World::new(store, snapshotter, &verbs);
    let mut failed = Vec::new();
    for verb in &verbs {
        let struck = strike(&mut world, verb);
        log.add_verb(&entry(verb), &struck);
        if !struck.left.is_empty() {
            let (name, left) = (verb.name, struck.left);
            failed.push(format!("{store} on {snapshotter}, {name}: {left:#?}"));
            world = World::new(store, snapshotter, &verbs);
        }
    }
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

/// Returns those of `verbs` that the environment chooses.
pub(crate) fn chosen(mut verbs: Vec<&'static Verb>) -> Vec<&'static Verb> {
    if let Ok(wanted) = std::env::var("CAS_KILLS_OF") {
        let unknown = wanted.split(',').find(|name| !verbs::is_known(name));
        assert_eq!(unknown, None, "CAS_KILLS_OF names no verb");
        verbs.retain(|verb| wanted.split(',').any(|name| name == verb.name));
    }
    verbs
}
