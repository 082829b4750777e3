//! The verbs that write: what comes before each kill, and what comes after some of them.

use std::fs;
use std::process::Command;

use crate::common::ok;
use crate::place::{BASE, OTHER, Place};

/// The last file of the image that is unpacked.
const LAST: &str = "base/1/19-soft";

/// A verb that is killed.
pub(crate) struct Verb {
    pub(crate) name: &'static str,
    /// Makes what the verb needs, whatever an earlier kill has left.
    pub(crate) prepare: fn(&Place),
    pub(crate) command: fn(&Place) -> Command,
    /// Does what DURABILITY.md tells users to do after a kill, except for the collection.
    pub(crate) recover: fn(&Place),
}

/// The verbs of images, in every build.
pub(crate) const VERBS: &[Verb] = &[
    Verb {
        name: "init",
        prepare: remove_new_root,
        command: |place| {
            let mut init = crate::common::cas(&place.path("out/made"));
            init.arg("init");
            init
        },
        recover: |place| {
            ok(crate::common::cas(&place.out()).arg("images"));
            remove_new_root(place);
        },
    },
    Verb {
        name: "import",
        prepare: renew,
        command: import,
        recover: |place| place.forget(OTHER),
    },
    Verb {
        name: "unpack",
        prepare: remove_complete,
        command: |place| to_out(place, &["unpack", BASE]),
        recover: |place| {
            remove_complete(place);
            ok(&mut to_out(place, &["unpack", BASE]));
            remove_complete(place);
        },
    },
    Verb {
        name: "export",
        prepare: |_| {},
        command: export,
        recover: |place| {
            ok(&mut export(place));
            fs::remove_file(place.out()).unwrap();
        },
    },
    Verb {
        name: "disk",
        prepare: |_| {},
        command: disk,
        recover: |place| {
            ok(&mut disk(place));
            fs::remove_file(place.out()).unwrap();
        },
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
        name: "mount",
        prepare: |place| unmount(place, "mounted"),
        command: mount,
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
            let runtime = if place.round.is_multiple_of(2) {
                "chroot"
            } else {
                "runc"
            };
            place.cas(&["run", "--runtime", runtime, BASE, "--", "/bin/true"])
        },
        recover: end_runs,
    },
    Verb {
        name: "bundle",
        prepare: remove_complete_bundle,
        command: |place| to_out(place, &["bundle", BASE]),
        recover: |place| {
            remove_complete_bundle(place);
            ok(&mut to_out(place, &["bundle", BASE]));
            remove_complete_bundle(place);
        },
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
        name: "fsck --repair",
        prepare: crate::damage::damage,
        command: repair,
        recover: |place| {
            ok(&mut repair(place));
        },
    },
];

pub(crate) fn import(place: &Place) -> Command {
    at(
        place.cas(&["import", "--unpack", "--name", OTHER]),
        place,
        "other",
    )
}

/// Prepares an import: in half of the rounds it starts without content, in the others with what
/// kills have left.
pub(crate) fn renew(place: &Place) {
    place.forget(OTHER);
    if place.round.is_multiple_of(2) {
        place.collect();
    }
}

pub(crate) fn at(mut command: Command, place: &Place, name: &str) -> Command {
    command.arg(place.path(name));
    command
}

fn to_out(place: &Place, arguments: &[&str]) -> Command {
    at(place.cas(arguments), place, "out/made")
}

fn export(place: &Place) -> Command {
    place.cas(&["export", BASE, "--output", place.out().to_str().unwrap()])
}

fn disk(place: &Place) -> Command {
    place.cas(&["disk", BASE, "--output", place.out().to_str().unwrap()])
}

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

fn unmount(place: &Place, name: &str) {
    if place.path(name).exists() {
        place.found(&mut at(place.cas(&["umount"]), place, name));
    }
}

/// Unmounts what is mounted. A collection removes what else a killed mount or umount has left.
fn unmount_mounted(place: &Place, name: &str) {
    if place.is_mounted(name) {
        ok(&mut at(place.cas(&["umount"]), place, name));
    }
}

fn repair(place: &Place) -> Command {
    let repair = place.cas(&["fsck", "--read-data", "--repair", "--from"]);
    at(repair, place, "source")
}

fn remove_new_root(place: &Place) {
    if place.out().exists() {
        fs::remove_dir_all(place.out()).unwrap();
    }
}

fn prepare_root_dir(place: &Place) -> Command {
    to_out(place, &["rootfs", "prepare", "--image", BASE])
}

fn remove_root_dir(place: &Place) {
    ok(&mut to_out(place, &["rootfs", "remove"]));
}

/// Removes the directory of a complete unpack. Another unpack removes the directory of a killed
/// unpack.
fn remove_complete(place: &Place) {
    if place.out().join(LAST).symlink_metadata().is_ok() && !is_unfinished(place) {
        fs::remove_dir_all(place.out()).unwrap();
    }
}

fn remove_complete_bundle(place: &Place) {
    if place.out().join("config.json").exists() && !is_unfinished(place) {
        remove_bundle(place);
    }
}

fn remove_bundle(place: &Place) {
    if place.out().exists() {
        // Never removes anything in a mount.
        let _ = fs::remove_dir(place.out().join("rootfs"));
        fs::remove_dir_all(place.out()).unwrap();
    }
}

fn is_unfinished(place: &Place) -> bool {
    rustix::fs::getxattr(place.out(), "user.cas.unfinished", &mut [0u8; 8][..]).is_ok()
}

/// Collects until the programs of killed runs, which end by themselves, have ended.
fn end_runs(place: &Place) {
    let runs = place.root.join("run");
    let begun = std::time::Instant::now();
    while fs::read_dir(&runs).is_ok_and(|mut left| left.next().is_some()) {
        assert!(begun.elapsed().as_secs() < 60, "a run does not end");
        ok(&mut place.cas(&["gc"]));
    }
}
