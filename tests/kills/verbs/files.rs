//! The verbs that write an image outside of the root.

use std::process::Command;

use super::{Verb, is_unfinished, remove_out, to_out};
use crate::common::ok;
use crate::place::{BASE, Place};

/// The last file of the image that is unpacked.
const LAST: &str = "base/1/19-soft";

pub(crate) const VERBS: &[Verb] = &[
    Verb {
        name: "unpack",
        prepare: remove_complete,
        command: unpack,
        recover: |place| again(place, unpack, remove_complete),
    },
    Verb {
        name: "unpack --rootless",
        prepare: remove_complete,
        command: unpack_rootless,
        recover: |place| again(place, unpack_rootless, remove_complete),
    },
    Verb {
        name: "export",
        prepare: |_| {},
        command: export,
        recover: |place| again(place, export, |_| {}),
    },
    Verb {
        name: "export --format docker",
        prepare: |_| {},
        command: export_for_docker,
        recover: |place| again(place, export_for_docker, |_| {}),
    },
    Verb {
        name: "disk",
        prepare: |_| {},
        command: disk,
        recover: |place| again(place, disk, |_| {}),
    },
    Verb {
        name: "disk --format vmdk",
        prepare: remove_out,
        command: disk_in_parts,
        recover: |place| again(place, disk_in_parts, remove_out),
    },
    Verb {
        name: "disk --format layers",
        // Another command for the same directory removes what the killed one has left there.
        prepare: |_| {},
        command: ready_layers,
        recover: |place| again(place, ready_layers, remove_out),
    },
    Verb {
        name: "disk --writable",
        prepare: remove_out,
        command: disk_to_write,
        recover: |place| again(place, disk_to_write, remove_out),
    },
    Verb {
        name: "bundle",
        prepare: remove_complete_bundle,
        command: bundle,
        recover: |place| again(place, bundle, remove_complete_bundle),
    },
    Verb {
        name: "bundle --rootless",
        prepare: remove_complete_bundle,
        command: bundle_rootless,
        recover: |place| again(place, bundle_rootless, remove_complete_bundle),
    },
];

/// Prepares and runs a command again, which removes what the killed one has left. Then removes what
/// the command has written.
fn again(place: &Place, command: fn(&Place) -> Command, prepare: fn(&Place)) {
    prepare(place);
    ok(&mut command(place));
    remove_out(place);
}

fn unpack(place: &Place) -> Command {
    to_out(place, &["unpack", BASE])
}

fn unpack_rootless(place: &Place) -> Command {
    to_out(place, &["unpack", "--rootless", BASE])
}

fn bundle(place: &Place) -> Command {
    to_out(place, &["bundle", BASE])
}

fn bundle_rootless(place: &Place) -> Command {
    to_out(place, &["bundle", "--rootless", BASE])
}

fn export(place: &Place) -> Command {
    to_out(place, &["export", BASE, "--output"])
}

fn export_for_docker(place: &Place) -> Command {
    to_out(place, &["export", BASE, "--format", "docker", "--output"])
}

fn disk(place: &Place) -> Command {
    to_out(place, &["disk", BASE, "--output"])
}

fn disk_in_parts(place: &Place) -> Command {
    to_out(place, &["disk", BASE, "--format", "vmdk", "--output"])
}

fn ready_layers(place: &Place) -> Command {
    to_out(place, &["disk", BASE, "--format", "layers", "--output"])
}

fn disk_to_write(place: &Place) -> Command {
    let mut disk = disk(place);
    disk.arg("--writable").arg(place.path("out/second"));
    disk.args(["--writable-size", "16MiB"]);
    disk
}

/// Removes the directory of a complete unpack. Another unpack removes the directory of a killed
/// unpack.
fn remove_complete(place: &Place) {
    if place.out().join(LAST).symlink_metadata().is_ok() && !is_unfinished(place) {
        remove_out(place);
    }
}

fn remove_complete_bundle(place: &Place) {
    if place.out().join("config.json").exists() && !is_unfinished(place) {
        remove_out(place);
    }
}
