//! Kills every verb that writes at random moments, on every store and every snapshotter. On each
//! store in a directory, also makes each system call of the verb fail. Checks that the next
//! collection leaves nothing of what was killed or failed.
//!
//! `cargo xtask kills` makes all kills, and `cargo xtask faults` makes all calls fail. For both,
//! `CAS_KILLS_OF` is a list of verbs, separated by commas, by default all. `CAS_KILLS_LOG` is a
//! file to which each verb is added; a run leaves out the verbs that left nothing according to
//! this file.
//!
//! For kills, `CAS_KILLS` is the number of kills of each verb, by default 300. `CAS_KILLS_SEED`
//! repeats the moments of an earlier run, which printed its seed. For faults, `CAS_FAULTS_EACH` is
//! a number N, by default 1: of the calls with the same name, one in N fails.
#![cfg(feature = "cli")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test may fail anywhere"
)]

mod bucket;
#[path = "../common/mod.rs"]
mod common;
mod damage;
#[cfg(all(feature = "aci", feature = "registry"))]
#[allow(dead_code, reason = "the tests of registries use all of it")]
#[path = "../registry/fake.rs"]
mod fake;
mod faults;
mod inventory;
mod log;
mod material;
mod place;
mod processes;
mod run;
mod seed;
mod strike;
mod verbs;

/// Defines the tests that kill all verbs on a store, on each snapshotter.
macro_rules! kills {
    ($store:literal) => {
        #[test]
        #[ignore = "hours; `cargo xtask long` runs it"]
        fn on_native() {
            crate::run::kill_all($store, "native");
        }

        #[test]
        #[ignore = "hours; `cargo xtask long` runs it"]
        fn on_overlay() {
            crate::run::kill_all($store, "overlay");
        }

        #[cfg(feature = "erofs")]
        #[test]
        #[ignore = "hours; `cargo xtask long` runs it"]
        fn on_erofs() {
            crate::run::kill_all($store, "erofs");
        }

        #[cfg(feature = "on-demand")]
        #[test]
        #[ignore = "hours; `cargo xtask long` runs it"]
        fn on_erofs_on_demand() {
            crate::run::kill_on_demand($store);
        }
    };
}

/// Defines the tests that make the calls of all verbs fail on a store, on each snapshotter.
macro_rules! faults {
    ($store:literal) => {
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
    };
}

/// Defines a module with the tests of each store of the build that is in a directory.
macro_rules! stores {
    ($($(#[$feature:meta])? $name:ident $store:literal;)*) => {
        $(
            $(#[$feature])?
            mod $name {
                kills! { $store }
                faults! { $store }
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
        run::kill_few(store, "native", verbs::aci::VERBS);
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

/// The chosen verbs are known even if the program that they need is missing.
#[cfg(feature = "registry")]
#[test]
fn chosen_verbs_that_need_a_missing_registry_are_skipped() {
    if !common::can(&[]) {
        return;
    }
    let programs = tempfile::tempdir().unwrap();
    for program in run::PROGRAMS {
        let link = programs.path().join(program);
        std::os::unix::fs::symlink("/bin/true", link).unwrap();
    }
    let mut kills = std::process::Command::new(std::env::current_exe().unwrap());
    kills.args(["--exact", "fs::on_native", "--ignored", "--nocapture"]);
    kills
        .env("PATH", programs.path())
        .env("CAS_KILLS_OF", "pull")
        .env_remove("CAS_KILLS_LOG");
    let out = kills.output().unwrap();
    let said = common::text(&out.stderr);
    assert!(out.status.success(), "{said}");
    for skipped in [
        "SKIPPED: missing [\"docker-registry\"]",
        "SKIPPED: fs on native: no chosen verb is left",
    ] {
        assert!(said.contains(skipped), "{said}");
    }
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

#[cfg(feature = "s3")]
mod s3 {
    kills! { "s3" }
}
