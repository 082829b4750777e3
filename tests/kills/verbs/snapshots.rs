//! The verbs that change snapshots. `snapshot mounts` is not one of them: it only prints.

use std::process::Command;

use cas::blocking::Cas;

use super::Verb;
use crate::common::ok;
use crate::place::{BASE, Place};

pub(crate) const VERBS: &[Verb] = &[
    Verb {
        name: "snapshot prepare",
        prepare: remove,
        command: prepare,
        recover: |_| {},
    },
    Verb {
        name: "snapshot prepare --parent",
        prepare: remove,
        command: |place| on_image(place, prepare(place)),
        recover: |_| {},
    },
    Verb {
        name: "snapshot commit",
        prepare: renew,
        command: commit,
        recover: |_| {},
    },
    Verb {
        name: "snapshot view",
        prepare: |place| {
            renew(place);
            ok(&mut commit(place));
        },
        command: |place| place.cas(&["snapshot", "view", "mine", "--parent", "committed"]),
        recover: |_| {},
    },
    Verb {
        name: "snapshot view --parent of an image",
        prepare: remove,
        command: |place| on_image(place, place.cas(&["snapshot", "view", "mine"])),
        recover: |_| {},
    },
    Verb {
        name: "snapshot rm",
        prepare: renew,
        command: |place| place.cas(&["snapshot", "rm", "mine"]),
        recover: |_| {},
    },
];

/// The verbs of snapshotters that can add a parent to a snapshot.
pub(crate) const WITH_LATE_PARENT: &[Verb] = &[Verb {
    name: "snapshot commit --parent",
    prepare: renew,
    command: |place| on_image(place, commit(place)),
    recover: |_| {},
}];

/// Removes the snapshots of the verbs.
fn remove(place: &Place) {
    // A snapshot with children cannot be removed, and `mine` may be a child of `committed`.
    for key in ["mine", "committed"] {
        place.found(&mut place.cas(&["snapshot", "rm", key]));
    }
}

/// Makes the writable snapshot again.
fn renew(place: &Place) {
    remove(place);
    ok(&mut prepare(place));
}

fn prepare(place: &Place) -> Command {
    place.cas(&["snapshot", "prepare", "mine"])
}

fn commit(place: &Place) -> Command {
    place.cas(&["snapshot", "commit", "committed", "mine"])
}

/// Adds the topmost snapshot of the image as the parent.
fn on_image(place: &Place, mut command: Command) -> Command {
    let cas = Cas::open(&place.root).unwrap();
    let top = cas.snapshot(BASE).unwrap().unwrap();
    cas.close().unwrap();
    command.args(["--parent", &top.to_string()]);
    command
}
