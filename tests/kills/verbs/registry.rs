//! The verbs that need a registry.

use std::fs;
use std::process::Command;

use super::{Verb, at, import, renew};
use crate::common::docker::Registry;
use crate::common::{append, ok};
use crate::place::{BASE, OTHER, Place};

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
        prepare: renew_pulled,
        command: |place| place.cas(&["pull", "--unpack", &at_registry(place, OTHER)]),
        recover: forget_pulled,
    },
    Verb {
        name: "pull --parallel",
        prepare: renew_pulled,
        command: pull_in_parallel,
        recover: forget_pulled,
    },
    Verb {
        name: "pull --discard-unpacked-layers",
        prepare: renew_pulled,
        command: |place| {
            let mut pull = pull_in_parallel(place);
            pull.arg("--discard-unpacked-layers");
            pull
        },
        recover: forget_pulled,
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
    Verb {
        name: "login",
        prepare: |_| {},
        command: log_in,
        recover: change_logins,
    },
    Verb {
        name: "logout",
        prepare: |place| {
            ok(&mut log_in(place));
        },
        command: log_out,
        recover: change_logins,
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

fn renew_pulled(place: &Place) {
    forget_pulled(place);
    renew(place);
}

fn forget_pulled(place: &Place) {
    place.forget(&at_registry(place, OTHER));
}

fn pull_in_parallel(place: &Place) -> Command {
    let from = at_registry(place, OTHER);
    place.cas(&["pull", "--unpack", "--parallel", &from])
}

fn import_signed(place: &Place) {
    ok(&mut at(place.cas(&["import"]), place, "signed"));
}

/// Returns a command that saves a login. It reads the password from a file.
fn log_in(place: &Place) -> Command {
    let password = place.path("password");
    if !password.exists() {
        fs::write(&password, "secret").unwrap();
    }
    let mut log_in = Command::new("sh");
    log_in.args(["-c", "exec \"$@\" < \"$0\""]).arg(password);
    let login = place.cas(&["login", "--username", "me", "--password-stdin"]);
    append(&mut log_in, &login);
    log_in.arg(&registry(place).host);
    log_in
}

fn log_out(place: &Place) -> Command {
    place.cas(&["logout", &registry(place).host])
}

/// Changes the file of the logins, which removes the temporary file that a kill has left.
fn change_logins(place: &Place) {
    ok(&mut log_in(place));
    ok(&mut log_out(place));
}

pub(super) fn at_registry(place: &Place, name: &str) -> String {
    registry(place).at(name)
}

fn registry(place: &Place) -> &Registry {
    place.registry.as_ref().unwrap()
}
