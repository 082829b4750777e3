//! The verbs that need a registry.

use crate::common::ok;
use crate::place::{BASE, OTHER, Place};
use crate::verbs::{Verb, at, import, renew};

/// The image of [`OTHER`] with an artifact that refers to it.
const SIGNED: &str = "signed:1";

pub(crate) const VERBS: &[Verb] = &[
    Verb {
        name: "push",
        prepare: |_| {},
        command: |place| {
            let target = format!("pushed{}:1", place.round);
            place.cas(&["push", BASE, &at_registry(place, &target)])
        },
        recover: |_| {},
    },
    Verb {
        name: "push --referrers",
        prepare: import_signed,
        command: |place| {
            let target = format!("signed{}:1", place.round);
            place.cas(&["push", "--referrers", SIGNED, &at_registry(place, &target)])
        },
        recover: |place| place.forget(SIGNED),
    },
    Verb {
        name: "pull",
        prepare: |place| {
            place.forget(&at_registry(place, OTHER));
            renew(place);
        },
        command: |place| place.cas(&["pull", "--unpack", &at_registry(place, OTHER)]),
        recover: |place| place.forget(&at_registry(place, OTHER)),
    },
    Verb {
        name: "pull --parallel",
        prepare: |place| {
            place.forget(&at_registry(place, OTHER));
            renew(place);
        },
        command: |place| {
            let from = at_registry(place, OTHER);
            place.cas(&["pull", "--unpack", "--parallel", &from])
        },
        recover: |place| place.forget(&at_registry(place, OTHER)),
    },
    Verb {
        name: "pull --referrers",
        prepare: |place| {
            place.forget(&at_registry(place, SIGNED));
            renew(place);
        },
        command: |place| {
            let from = at_registry(place, SIGNED);
            place.cas(&["pull", "--unpack", "--referrers", &from])
        },
        recover: |place| place.forget(&at_registry(place, SIGNED)),
    },
];

/// Pushes the images that [`VERBS`] pull to the registry.
pub(crate) fn fill(place: &Place) {
    ok(&mut import(place));
    ok(&mut place.cas(&["push", OTHER, &at_registry(place, OTHER)]));
    import_signed(place);
    let target = at_registry(place, SIGNED);
    ok(&mut place.cas(&["push", "--referrers", SIGNED, &target]));
    for name in [OTHER, SIGNED] {
        place.forget(name);
    }
    place.collect();
}

fn import_signed(place: &Place) {
    ok(&mut at(place.cas(&["import"]), place, "signed"));
}

fn at_registry(place: &Place, name: &str) -> String {
    place.registry.as_ref().unwrap().at(name)
}
