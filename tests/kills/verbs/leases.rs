//! The verbs that change leases, and the collection that leases hold back.

use std::process::Command;

use super::{Verb, import};
use crate::common::ok;
use crate::place::{BASE, OTHER, Place};

/// The lease that the verbs change.
const LEASE: &str = "mine";

pub(crate) const VERBS: &[Verb] = &[
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
];

fn renew_lease(place: &Place) {
    place.found(&mut place.cas(&["lease", "rm", LEASE]));
    ok(&mut place.cas(&["lease", "create", "--id", LEASE, "--expire", "2h"]));
}

/// Adds the image to the lease, so that it counts as used.
fn lease_image(place: &Place) -> Command {
    place.cas(&["lease", "add", LEASE, &format!("images/{BASE}")])
}
