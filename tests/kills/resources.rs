//! The verbs that change blobs, leases and snapshots, and the collection that leases hold back.

use std::process::Command;

use crate::common::ok;
use crate::place::{BASE, OTHER, Place};
use crate::verbs::{Verb, at, import};

/// The lease and the label that the verbs change.
const LEASE: &str = "mine";
const LABEL: &str = "containerd.io/gc.root=";

/// The verbs of every build.
pub(crate) const VERBS: &[Verb] = &[
    Verb {
        name: "blob add",
        prepare: |place| place.collect(),
        command: add_blob,
        recover: |_| {},
    },
    Verb {
        name: "blob label",
        prepare: |_| {},
        command: |place| {
            let digest = add_blob_and_print(place);
            place.cas(&["blob", "label", &digest, &format!("{LABEL}yes")])
        },
        recover: |place| {
            let digest = add_blob_and_print(place);
            ok(&mut place.cas(&["blob", "label", &digest, LABEL]));
        },
    },
    Verb {
        name: "blob rm",
        prepare: |_| {},
        command: |place| place.cas(&["blob", "rm", &add_blob_and_print(place)]),
        recover: |_| {},
    },
    Verb {
        name: "lease create",
        prepare: |_| {},
        command: |place| place.cas(&["lease", "create", "--expire", "2h"]),
        recover: |_| {},
    },
    Verb {
        name: "lease add",
        prepare: renew_lease,
        command: lease_image,
        recover: |_| {},
    },
    Verb {
        name: "gc --older-than",
        prepare: |place| {
            renew_lease(place);
            ok(&mut lease_image(place));
            ok(&mut import(place));
        },
        command: |place| place.cas(&["gc", "--older-than", "0s"]),
        recover: |place| place.forget(OTHER),
    },
    Verb {
        name: "lease rm",
        prepare: renew_lease,
        command: |place| place.cas(&["lease", "rm", LEASE]),
        recover: |_| {},
    },
    Verb {
        name: "snapshot prepare",
        prepare: |place| {
            place.found(&mut place.cas(&["snapshot", "rm", "mine"]));
        },
        command: |place| place.cas(&["snapshot", "prepare", "mine"]),
        recover: |_| {},
    },
    Verb {
        name: "snapshot commit",
        prepare: renew_snapshot,
        command: |place| place.cas(&["snapshot", "commit", "committed", "mine"]),
        recover: |_| {},
    },
    Verb {
        name: "snapshot view",
        prepare: |place| {
            renew_snapshot(place);
            ok(&mut place.cas(&["snapshot", "commit", "committed", "mine"]));
        },
        command: |place| place.cas(&["snapshot", "view", "mine", "--parent", "committed"]),
        recover: |_| {},
    },
    Verb {
        name: "snapshot rm",
        prepare: renew_snapshot,
        command: |place| place.cas(&["snapshot", "rm", "mine"]),
        recover: |_| {},
    },
];

fn add_blob(place: &Place) -> Command {
    at(place.cas(&["blob", "add"]), place, "file")
}

/// Adds the blob, unless it is there. Returns its digest.
fn add_blob_and_print(place: &Place) -> String {
    ok(&mut add_blob(place)).trim_end().to_owned()
}

fn renew_lease(place: &Place) {
    place.found(&mut place.cas(&["lease", "rm", LEASE]));
    ok(&mut place.cas(&["lease", "create", "--id", LEASE, "--expire", "2h"]));
}

/// Adds the image to the lease, so that it counts as used.
fn lease_image(place: &Place) -> Command {
    place.cas(&["lease", "add", LEASE, &format!("images/{BASE}")])
}

/// Makes the writable snapshot, and removes the committed one, which it must not be below.
fn renew_snapshot(place: &Place) {
    for key in ["mine", "committed"] {
        place.found(&mut place.cas(&["snapshot", "rm", key]));
    }
    ok(&mut place.cas(&["snapshot", "prepare", "mine"]));
}
