//! The protocol of collection, searched: every interleaving of a collection with its clients up to
//! a number of preemptions, on the store that helps least; and the same with one rule taken out,
//! which must lose something, or the search proves nothing.
//!
//! A step ends wherever the strict store gives way, so that between two steps another machine
//! could have done anything. `CAS_PREEMPTIONS` deepens the search; three take some minutes.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod actors;
mod faults;
mod search;
mod world;

use actors::{Actor, collect, collect_later, import, remove, rename, tag, tag_root_only};
use search::{Outcome, search};
use world::World;

/// Actors, and what is in the store before them: names of the first image.
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
            assert!(runs > 100, "the search was no search");
        }
        Outcome::Lost { runs, what } => panic!("after {runs} interleavings: {what}"),
    }
}

fn loses(scene: &Scene, usual: usize) {
    match search(scene, usual) {
        Outcome::Kept { runs } => panic!("the planted fault stayed hidden in {runs}"),
        Outcome::Lost { runs, what } => println!("found after {runs} interleavings: {what}"),
    }
}

#[test]
fn an_import_beside_a_collection() {
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
fn an_import_of_what_nobody_holds_beside_two_collections() {
    let actors = |world: &World| vec![import(world, 0, "b"), collect(world), collect(world)];
    keeps(&Scene { names: &[], actors }, 1);
}

#[test]
fn a_tag_beside_a_removal_and_a_collection() {
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
fn renames_beside_a_collection() {
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
fn a_lease_that_expires_in_the_middle() {
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
fn a_job_that_is_killed_anywhere() {
    for steps in (0..60).step_by(3) {
        let outcome = search::killed_at(steps);
        assert!(
            matches!(outcome, Outcome::Kept { .. }),
            "killed after {steps} steps: {outcome:?}"
        );
    }
}

#[test]
fn to_touch_only_the_root_is_found_out() {
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
fn to_read_names_before_leases_is_found_out() {
    let actors = |world: &World| {
        vec![
            import(world, 1, "b"),
            actors::collect_with(faults::names_first(&world.store)),
        ]
    };
    loses(&Scene { names: &[], actors }, 2);
}

#[test]
fn to_sweep_whatever_the_revision_is_found_out() {
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
fn to_remove_whatever_the_version_is_found_out() {
    let actors = |world: &World| {
        let blunt = faults::without_versions(&world.store);
        vec![import(world, 0, "b"), actors::collect_with(blunt)]
    };
    loses(&Scene { names: &[], actors }, 2);
}
