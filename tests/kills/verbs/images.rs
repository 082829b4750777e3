//! The verbs that store, name and remove images.

use std::process::Command;

use super::{Verb, at, import, remove_out, renew};
use crate::common::ok;
use crate::place::{BASE, OTHER, Place};

pub(crate) const VERBS: &[Verb] = &[
    Verb {
        name: "import",
        prepare: renew,
        command: import,
        recover: |place| place.forget(OTHER),
    },
    Verb {
        name: "import of an archive",
        prepare: renew,
        command: |place| {
            let import = place.cas(&["import", "--unpack", "--name", OTHER]);
            at(import, place, "other.tar")
        },
        recover: |place| place.forget(OTHER),
    },
    Verb {
        name: "copy",
        prepare: renew,
        command: |place| {
            let from = format!("{}#{OTHER}", place.path("source").display());
            place.cas(&["copy", &from, OTHER])
        },
        recover: |place| place.forget(OTHER),
    },
    Verb {
        name: "copy to another root",
        prepare: |place| {
            if place.round.is_multiple_of(2) {
                remove_out(place);
            }
        },
        command: copy_out,
        recover: |place| {
            ok(&mut copy_out(place));
            remove_out(place);
        },
    },
    Verb {
        name: "tag",
        prepare: |place| place.forget(OTHER),
        command: |place| place.cas(&["tag", BASE, OTHER]),
        recover: |place| place.forget(OTHER),
    },
    Verb {
        name: "rmi",
        prepare: |place| {
            ok(&mut place.cas(&["tag", BASE, OTHER]));
        },
        command: |place| place.cas(&["rmi", OTHER]),
        recover: |place| place.forget(OTHER),
    },
];

/// The other root is made if it does not exist.
fn copy_out(place: &Place) -> Command {
    place.cas(&["copy", BASE, &format!("{}#", place.out().display())])
}
