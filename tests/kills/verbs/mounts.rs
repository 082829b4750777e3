//! The verbs that mount and unmount an image.

use std::fs;
use std::process::Command;

use super::{Verb, at, end_runs, runtime, to_out, unmount, unmount_mounted};
use crate::common::ok;
use crate::place::{BASE, Place};

pub(crate) const VERBS: &[Verb] = &[
    Verb {
        name: "mount",
        prepare: |place| unmount(place, "mounted"),
        command: mount,
        recover: |place| unmount_mounted(place, "mounted"),
    },
    Verb {
        name: "mount --map-ids",
        prepare: |place| unmount(place, "mounted"),
        command: |place| {
            let mut mount = mount(place);
            mount.args(["--map-ids", "0:100000:65536"]);
            mount
        },
        recover: |place| unmount_mounted(place, "mounted"),
    },
    Verb {
        name: "umount",
        prepare: |place| {
            unmount(place, "mounted");
            ok(&mut mount(place));
        },
        command: |place| at(place.cas(&["umount"]), place, "mounted"),
        recover: |place| unmount_mounted(place, "mounted"),
    },
    Verb {
        name: "run",
        prepare: |_| {},
        command: |place| {
            let runtime = runtime(place);
            place.cas(&["run", "--runtime", runtime, BASE, "--", "/bin/true"])
        },
        recover: end_runs,
    },
    Verb {
        name: "bundle --mount",
        prepare: |place| {
            unmount(place, "out/made/rootfs");
            remove_bundle(place);
        },
        command: |place| to_out(place, &["bundle", "--mount", BASE]),
        recover: |place| {
            unmount_mounted(place, "out/made/rootfs");
            remove_bundle(place);
        },
    },
    Verb {
        name: "rootfs prepare",
        prepare: |_| {},
        command: prepare_root_dir,
        recover: remove_root_dir,
    },
    Verb {
        name: "rootfs prepare over another",
        prepare: |place| {
            ok(&mut prepare_root_dir(place));
        },
        command: prepare_root_dir,
        recover: remove_root_dir,
    },
    Verb {
        name: "rootfs unmount",
        prepare: |place| {
            ok(&mut prepare_root_dir(place));
        },
        command: |place| to_out(place, &["rootfs", "unmount"]),
        recover: remove_root_dir,
    },
    Verb {
        name: "rootfs remove",
        prepare: |place| {
            ok(&mut prepare_root_dir(place));
        },
        command: |place| to_out(place, &["rootfs", "remove"]),
        recover: remove_root_dir,
    },
];

fn mount(place: &Place) -> Command {
    let rw: &[&str] = if place.round.is_multiple_of(2) {
        &[]
    } else {
        &["--rw"]
    };
    at(
        place.cas(&[&["mount", BASE], rw].concat()),
        place,
        "mounted",
    )
}

fn prepare_root_dir(place: &Place) -> Command {
    to_out(place, &["rootfs", "prepare", "--image", BASE])
}

fn remove_root_dir(place: &Place) {
    ok(&mut to_out(place, &["rootfs", "remove"]));
}

fn remove_bundle(place: &Place) {
    if place.out().exists() {
        // Never removes anything in a mount.
        let _ = fs::remove_dir(place.out().join("rootfs"));
        fs::remove_dir_all(place.out()).unwrap();
    }
}
