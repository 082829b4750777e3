//! The verbs that make, clean and repair a root.

use std::process::Command;

use super::{Verb, at, import, remove_out};
use crate::common::ok;
use crate::place::{OTHER, Place};

pub(crate) const VERBS: &[Verb] = &[
    Verb {
        name: "init",
        prepare: remove_out,
        command: |place| place.cas_on(&place.out(), &["init"]),
        recover: |place| {
            ok(&mut place.cas_on(&place.out(), &["images"]));
            remove_out(place);
        },
    },
    Verb {
        name: "gc",
        prepare: |place| {
            ok(&mut import(place));
            ok(&mut place.cas(&["rmi", OTHER]));
        },
        command: |place| place.cas(&["gc"]),
        recover: |_| {},
    },
    Verb {
        name: "fsck --read-data",
        prepare: |_| {},
        command: read_part,
        recover: |place| {
            // The note of where the next part begins is there after each round, then.
            ok(&mut place.cas(&["fsck", "--read-data=30%"]));
            ok(&mut place.cas(&["fsck", "--read-data"]));
        },
    },
    Verb {
        name: "fsck --repair",
        prepare: crate::damage::damage,
        command: repair,
        recover: |place| {
            ok(&mut repair(place));
        },
    },
];

/// In half of the rounds, reads everything, in the others the next part.
fn read_part(place: &Place) -> Command {
    let part = if place.round.is_multiple_of(2) {
        "--read-data"
    } else {
        "--read-data=30%"
    };
    place.cas(&["fsck", part])
}

fn repair(place: &Place) -> Command {
    let repair = place.cas(&["fsck", "--read-data", "--repair", "--from"]);
    at(repair, place, "source")
}
