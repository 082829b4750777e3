//! The verbs that make indexes of SOCI.

use std::process::Command;

use super::{Verb, at, renew};
use crate::common::ok;
use crate::place::{OTHER, Place, ZIPPED};

/// Options with which each layer of [`ZIPPED`] that is compressed with gzip gets several spans.
pub(super) const SPANS: [&str; 4] = ["--min-layer-size", "0", "--span-size", "64KiB"];

pub(super) const VERBS: &[Verb] = &[
    Verb {
        name: "soci create",
        prepare: import,
        command: |place| make(place, &["create", ZIPPED]),
        recover: |place| place.forget(ZIPPED),
    },
    Verb {
        name: "soci convert",
        prepare: import,
        command: |place| make(place, &["convert", ZIPPED, OTHER]),
        recover: |place| {
            place.forget(ZIPPED);
            place.forget(OTHER);
        },
    },
];

/// In half of the rounds, removes what kills have left. Imports the image.
fn import(place: &Place) {
    place.forget(ZIPPED);
    renew(place);
    let import = place.cas(&["import", "--name", ZIPPED]);
    ok(&mut at(import, place, "zipped"));
}

fn make(place: &Place, arguments: &[&str]) -> Command {
    let mut soci = place.cas(&["soci"]);
    soci.args(arguments).args(SPANS);
    soci
}
