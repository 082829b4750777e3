//! The verbs that write: what comes before each kill, and what comes after some of them.
//!
//! These verbs are left out: `bench`, `demo` and `man` write only outside of a root, `registry rm`
//! changes only a registry, `unshare` only starts a program, and `lazy serve` ends only with its
//! mount. A test in `tests/mount/lazy` kills the processes of `lazy serve`.

#[cfg(feature = "aci")]
pub(crate) mod aci;
mod blobs;
mod files;
pub(crate) mod images;
mod leases;
mod mounts;
#[cfg(feature = "on-demand")]
pub(crate) mod on_demand;
#[cfg(feature = "registry")]
pub(crate) mod registry;
mod snapshots;
#[cfg(feature = "on-demand")]
mod soci;
mod upkeep;

use std::fs;
use std::process::Command;

use crate::common::ok;
use crate::place::{OTHER, Place};

/// A verb that is killed.
pub(crate) struct Verb {
    pub(crate) name: &'static str,
    /// Makes what the verb needs, whatever an earlier kill has left.
    pub(crate) prepare: fn(&Place),
    pub(crate) command: fn(&Place) -> Command,
    /// Does what DURABILITY.md tells users to do after a kill, except for the collection.
    pub(crate) recover: fn(&Place),
}

/// Returns the verbs that suit a store and a snapshotter, and that this machine can run, except
/// those in [`on_demand`].
pub(crate) fn of(store: &str, snapshotter: &str) -> Vec<&'static Verb> {
    let verbs = without_registry(store, snapshotter);
    #[cfg(feature = "registry")]
    if crate::common::can(&[crate::common::docker::PROGRAM]) {
        return verbs.into_iter().chain(registry::VERBS).collect();
    }
    verbs
}

/// Returns the verbs that suit a store and a snapshotter, and that need no registry.
fn without_registry(store: &str, snapshotter: &str) -> Vec<&'static Verb> {
    let mut groups = vec![
        images::VERBS,
        files::VERBS,
        mounts::VERBS,
        upkeep::VERBS,
        blobs::VERBS,
        leases::VERBS,
        snapshots::VERBS,
    ];
    // In the other stores, an unfinished ingest ends with its process.
    if !["dir", "s3"].contains(&store) {
        groups.push(blobs::OF_INGESTS);
    }
    // This snapshotter cannot add a parent to a snapshot.
    if snapshotter != "native" {
        groups.push(snapshots::WITH_LATE_PARENT);
    }
    #[cfg(feature = "on-demand")]
    groups.push(soci::VERBS);
    #[cfg(feature = "aci")]
    groups.push(aci::VERBS);
    groups.into_iter().flatten().collect()
}

/// Returns whether a verb of any store and any snapshotter has this name, even if this machine
/// cannot run the verb.
pub(crate) fn is_known(name: &str) -> bool {
    // All verbs that need no registry suit these two.
    let known = without_registry("fs", "overlay").into_iter();
    #[cfg(feature = "registry")]
    let known = known.chain(registry::VERBS);
    #[cfg(feature = "on-demand")]
    let known = known.chain(on_demand::VERBS);
    known.map(|verb| verb.name).any(|known| known == name)
}

fn import(place: &Place) -> Command {
    at(
        place.cas(&["import", "--unpack", "--name", OTHER]),
        place,
        "other",
    )
}

/// Prepares a verb that stores [`OTHER`]: in half of the rounds it starts without content, in the
/// others with what kills have left.
fn renew(place: &Place) {
    place.forget(OTHER);
    if place.round.is_multiple_of(2) {
        place.collect();
    }
}

fn at(mut command: Command, place: &Place, name: &str) -> Command {
    command.arg(place.path(name));
    command
}

fn to_out(place: &Place, arguments: &[&str]) -> Command {
    at(place.cas(arguments), place, "out/made")
}

/// Removes what a verb has written outside of the root.
fn remove_out(place: &Place) {
    for path in [place.out(), place.path("out/second")] {
        match path.symlink_metadata() {
            Ok(found) if found.is_dir() => fs::remove_dir_all(path).unwrap(),
            Ok(_) => fs::remove_file(path).unwrap(),
            Err(_) => {}
        }
    }
}

/// Returns whether a killed verb has left an incomplete tree.
fn is_unfinished(place: &Place) -> bool {
    rustix::fs::getxattr(place.out(), "user.cas.unfinished", &mut [0u8; 8][..]).is_ok()
}

/// Ends a mount, or what a killed mount or umount has left.
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

/// Collects until the programs of killed runs, which end by themselves, have ended.
fn end_runs(place: &Place) {
    let runs = place.root.join("run");
    let begun = std::time::Instant::now();
    while fs::read_dir(&runs).is_ok_and(|mut left| left.next().is_some()) {
        assert!(begun.elapsed().as_secs() < 60, "a run does not end");
        ok(&mut place.cas(&["gc"]));
    }
}

/// Returns the runtime with which this round runs a program. Each has even and odd rounds.
fn runtime(place: &Place) -> &'static str {
    if place.round % 4 < 2 {
        "chroot"
    } else {
        "runc"
    }
}
