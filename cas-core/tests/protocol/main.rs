//! A search of the protocol of leases and garbage collection: every interleaving of a collection
//! and its clients, up to a number of preemptions, on the strictest store. If one rule of the
//! protocol is removed, the search must find a loss; otherwise the search proves nothing.
//!
//! A step ends wherever the strict store yields, so that between two steps another machine could
//! have done anything. `CAS_PREEMPTIONS` deepens the search; three preemptions take more than an
//! hour.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod actors;
mod faults;
mod search;
mod world;

use actors::{Actor, collect, collect_later, import, remove, rename, tag, tag_root_only};
use search::{Outcome, search};
use world::World;

/// Actors, and the names that the first image has before they start.
struct Scene {
    names: &'static [&'static str],
    actors: fn(&World) -> Vec<Actor>,
}

fn preemptions(usual: usize) -> usize {
    let asked = std::env::var("CAS_PREEMPTIONS").ok();
    asked.and_then(|text| text.parse().ok()).unwrap_or(usual)
}

fn keeps(scene: &Scene, usual: usize) {
    match search(scene, preemptions(usual)) {
        Outcome::Kept { runs } => {
            println!("{runs} interleavings, nothing lost");
            assert!(runs > 100, "the search tried too little");
        }
        Outcome::Lost { runs, what } => panic!("after {runs} interleavings: {what}"),
    }
}

fn loses(scene: &Scene, usual: usize) {
    match search(scene, usual) {
        Outcome::Kept { runs } => panic!("the planted fault was not found in {runs} interleavings"),
        Outcome::Lost { runs, what } => println!("found after {runs} interleavings: {what}"),
    }
}

#[test]
fn an_import_during_a_collection() {
    let actors = |world: &World| vec![import(world, 1, "b"), collect(world)];
    keeps(&Scene { names: &[], actors }, 2);
}

#[test]
fn an_import_of_what_is_being_removed() {
    let actors = |world: &World| vec![import(world, 0, "b"), remove(world, "a"), collect(world)];
    keeps(
        &Scene {
            names: &["a"],
            actors,
        },
        1,
    );
}

#[test]
fn an_import_of_unreferenced_blobs_during_two_collections() {
    let actors = |world: &World| vec![import(world, 0, "b"), collect(world), collect(world)];
    keeps(&Scene { names: &[], actors }, 1);
}

#[test]
fn a_tag_during_a_removal_and_a_collection() {
    let actors = |world: &World| vec![tag(world, "a", "b"), remove(world, "a"), collect(world)];
    keeps(
        &Scene {
            names: &["a"],
            actors,
        },
        2,
    );
}

#[test]
fn renames_during_a_collection() {
    let actors = |world: &World| vec![rename(world, "a", "b"), collect(world)];
    keeps(
        &Scene {
            names: &["a"],
            actors,
        },
        2,
    );
    let actors = |world: &World| {
        vec![
            rename(world, "a", "b"),
            rename(world, "a", "c"),
            collect(world),
        ]
    };
    keeps(
        &Scene {
            names: &["a"],
            actors,
        },
        1,
    );
}

#[test]
fn a_lease_that_expires_during_its_job() {
    let actors = |world: &World| vec![import(world, 1, "b"), collect_later(world)];
    keeps(&Scene { names: &[], actors }, 2);
    let actors = |world: &World| {
        vec![
            tag(world, "a", "b"),
            remove(world, "a"),
            collect_later(world),
        ]
    };
    keeps(
        &Scene {
            names: &["a"],
            actors,
        },
        1,
    );
}

#[test]
fn a_job_that_is_killed_at_any_step() {
    for steps in (0..60).step_by(3) {
        let outcome = search::killed_at(steps);
        assert!(
            matches!(outcome, Outcome::Kept { .. }),
            "killed after {steps} steps: {outcome:?}"
        );
    }
}

#[test]
fn pinning_only_the_root_is_detected() {
    let actors = |world: &World| {
        vec![
            tag_root_only(world, "a", "b"),
            remove(world, "a"),
            collect(world),
        ]
    };
    loses(
        &Scene {
            names: &["a"],
            actors,
        },
        2,
    );
}

#[test]
fn reading_names_before_leases_is_detected() {
    let actors = |world: &World| {
        vec![
            import(world, 1, "b"),
            actors::collect_with(faults::names_first(&world.store)),
        ]
    };
    loses(&Scene { names: &[], actors }, 2);
}

#[test]
fn sweeping_without_comparing_revisions_is_detected() {
    let actors = |world: &World| {
        let blind = faults::without_revisions(&world.store);
        vec![
            tag(world, "a", "b"),
            remove(world, "a"),
            actors::collect_with(blind),
        ]
    };
    loses(
        &Scene {
            names: &["a"],
            actors,
        },
        2,
    );
}

#[test]
fn removing_without_comparing_versions_is_detected() {
    let actors = |world: &World| {
        let blunt = faults::without_versions(&world.store);
        vec![import(world, 0, "b"), actors::collect_with(blunt)]
    };
    loses(&Scene { names: &[], actors }, 2);
}
