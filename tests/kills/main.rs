//! Kills every verb that writes at random moments, and makes each of its system calls fail, on
//! every store and every snapshotter. Checks that the next collection leaves nothing of what was
//! killed or failed.
//!
//! `cargo xtask kills` makes all kills, and `cargo xtask faults` makes all calls fail. For both,
//! `CAS_KILLS_OF` is a list of verbs, separated by commas, by default all. `CAS_KILLS_LOG` is a
//! file to which each verb is added; a run leaves out the verbs that left nothing according to
//! this file.
//!
//! For kills, `CAS_KILLS` is the number of kills of each verb, by default 300. `CAS_KILLS_SEED`
//! repeats the moments of an earlier run, which printed its seed. For faults, `CAS_FAULTS_EACH` is
//! a number N, by default 1: of the calls with the same name, each Nth fails.
#![cfg(feature = "cli")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test may fail anywhere"
)]

#[cfg(feature = "aci")]
mod aci;
#[path = "../common/mod.rs"]
mod common;
mod damage;
#[cfg(all(feature = "aci", feature = "registry"))]
#[allow(dead_code, reason = "the tests of registries use all of it")]
#[path = "../registry/fake.rs"]
mod fake;
mod faults;
mod log;
mod material;
mod place;

#[cfg(feature = "registry")]
mod registry;
mod resources;
mod run;
mod seed;
mod strike;
mod verbs;

/// Defines a test for each store of the build, on each snapshotter.
macro_rules! stores {
    ($($(#[$feature:meta])? $name:ident $store:literal;)*) => {
        $(
            $(#[$feature])?
            mod $name {
                #[test]
                #[ignore = "ten minutes; `cargo xtask long` runs it"]
                fn on_native() {
                    crate::run::kill_all($store, "native");
                }

                #[test]
                #[ignore = "ten minutes; `cargo xtask long` runs it"]
                fn on_overlay() {
                    crate::run::kill_all($store, "overlay");
                }

                #[cfg(feature = "erofs")]
                #[test]
                #[ignore = "ten minutes; `cargo xtask long` runs it"]
                fn on_erofs() {
                    crate::run::kill_all($store, "erofs");
                }

                #[test]
                #[ignore = "an hour; `cargo xtask faults` runs it"]
                fn faults_on_native() {
                    crate::faults::fail_all($store, "native");
                }

                #[test]
                #[ignore = "an hour; `cargo xtask faults` runs it"]
                fn faults_on_overlay() {
                    crate::faults::fail_all($store, "overlay");
                }

                #[cfg(feature = "erofs")]
                #[test]
                #[ignore = "an hour; `cargo xtask faults` runs it"]
                fn faults_on_erofs() {
                    crate::faults::fail_all($store, "erofs");
                }
            }
        )*
    };
}

/// A few kills of verbs that need neither mounts nor a registry.
#[cfg(feature = "aci")]
#[test]
fn verbs_of_acis_that_are_killed_leave_nothing() {
    for store in [
        "fs",
        #[cfg(feature = "redb")]
        "redb",
    ] {
        run::kill_few(store, "native", aci::VERBS);
    }
}

/// Some calls of a verb that fail.
#[test]
fn a_verb_whose_calls_fail_leaves_nothing() {
    faults::fail_few("fs", "native");
}

#[test]
fn what_a_failed_call_leaves_is_reported() {
    faults::report_planted("fs", "native");
}

stores! {
    fs "fs";
    #[cfg(feature = "redb")]
    redb "redb";
    #[cfg(feature = "redb")]
    by_size "by-size://?small=redb&large=fs";
    #[cfg(feature = "remote")]
    dir "dir";
    #[cfg(feature = "rocksdb")]
    rocksdb "rocksdb";
}
