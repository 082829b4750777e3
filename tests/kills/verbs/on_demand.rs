//! The verbs of layers that are read on demand. They have a place of their own: in a root that has
//! such layers, every verb that mounts starts the processes that serve them.

use std::fs;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use super::registry::at_registry;
use super::soci::SPANS;
use super::{Verb, at, end_runs, runtime, unmount, unmount_mounted};
use crate::common::ok;
use crate::place::{Place, ZIPPED};

/// The time in which the processes that serve layers must end after their mount has ended.
const PATIENCE: Duration = Duration::from_secs(60);
const LOOK: Duration = Duration::from_millis(20);

pub(crate) const VERBS: &[Verb] = &[
    Verb {
        name: "pull --lazy",
        prepare: renew,
        command: pull,
        recover: end,
    },
    Verb {
        name: "mount --lazy",
        prepare: renew,
        command: mount,
        recover: end,
    },
    Verb {
        name: "umount after mount --lazy",
        prepare: |place| {
            renew(place);
            ok(&mut mount(place));
            fs::read(place.path("mounted/lowest/large")).unwrap();
        },
        command: |place| at(place.cas(&["umount"]), place, "mounted"),
        recover: end,
    },
    Verb {
        name: "run --lazy",
        prepare: renew,
        command: |place| {
            let (runtime, image) = (runtime(place), image(place));
            let run = ["run", "--lazy", "--runtime", runtime, &image];
            place.cas(&[&run[..], &["--", "/bin/true"]].concat())
        },
        recover: |place| {
            end_runs(place);
            end(place);
        },
    },
    Verb {
        name: "pull after pull --lazy",
        prepare: |place| {
            renew(place);
            ok(&mut pull(place));
        },
        command: |place| place.cas(&["pull", "--unpack", &image(place)]),
        recover: end,
    },
    Verb {
        name: "gc after pull --lazy",
        prepare: |place| {
            renew(place);
            ok(&mut pull(place));
            place.forget(&image(place));
        },
        command: |place| place.cas(&["gc"]),
        recover: end,
    },
    Verb {
        name: "fsck --repair after pull --lazy",
        prepare: |place| {
            renew(place);
            ok(&mut pull(place));
            crate::damage::damage_on_demand(place);
        },
        command: repair,
        recover: |place| {
            ok(&mut repair(place));
            end(place);
        },
    },
];

/// Pushes the image that [`VERBS`] pull to the registry. Each of its layers has a table of
/// contents.
fn push(place: &Place) {
    let (source, image) = (place.path("source"), image(place));
    let import = place.cas_on(&source, &["import", "--name", ZIPPED]);
    ok(&mut at(import, place, "zipped"));
    let mut convert = place.cas_on(&source, &["soci", "convert", ZIPPED, &image]);
    ok(convert.args(SPANS));
    ok(&mut place.cas_on(&source, &["push", &image]));
}

fn image(place: &Place) -> String {
    at_registry(place, "lazy:1")
}

fn pull(place: &Place) -> Command {
    place.cas(&["pull", "--lazy", &image(place)])
}

fn mount(place: &Place) -> Command {
    let mut mount = place.cas(&["mount", "--lazy", &image(place)]);
    // Independent of what `renew` does in this round.
    if place.round % 4 < 2 {
        mount.arg("--rw");
    }
    at(mount, place, "mounted")
}

fn repair(place: &Place) -> Command {
    place.cas(&["fsck", "--read-data", "--repair"])
}

/// Removes the image. In half of the rounds, the processes that serve layers end, and nothing is
/// left. In the others, the processes and what kills have left stay. The first round of a place
/// pushes the image.
fn renew(place: &Place) {
    if place.round == 1 {
        push(place);
    }
    unmount(place, "mounted");
    place.forget(&image(place));
    if place.round.is_multiple_of(2) {
        end_session(place);
        place.collect();
    }
}

fn end(place: &Place) {
    unmount_mounted(place, "mounted");
    end_session(place);
    place.forget(&image(place));
}

/// Ends the mount of the data of layers, which ends the processes that serve them. A killed verb
/// may have started processes that have not mounted the data yet.
fn end_session(place: &Place) {
    const SERVED: &str = "root/snapshots/erofs/lazy";
    let begun = Instant::now();
    while place.is_mounted(SERVED) || !place.processes().is_empty() {
        let processes = place.processes();
        assert!(begun.elapsed() < PATIENCE, "do not end: {processes:?}");
        // Unmounts images that a killed verb has left, and that use the data.
        ok(&mut place.cas(&["gc"]));
        let _ = Command::new("umount").arg(place.path(SERVED)).output();
        thread::sleep(LOOK);
    }
}
