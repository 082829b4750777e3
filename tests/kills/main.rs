//! Kills every verb that writes at random moments, on every store and every snapshotter, and checks
//! that the next collection leaves nothing of what the killed processes did.
//!
//! `cargo xtask kills` runs all of them. `CAS_KILLS` is the number of kills of each verb, by
//! default 300. `CAS_KILLS_OF` is a list of verbs, separated by commas, by default all.
//! `CAS_KILLS_SEED` repeats the moments of an earlier run, which printed its seed. `CAS_KILLS_LOG`
//! is a file to which each verb that was killed is added; a run leaves out the verbs that left
//! nothing according to this file.
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
    ($($(#[$feature:meta])? $store:ident)*) => {
        $(
            $(#[$feature])?
            mod $store {
                #[test]
                #[ignore = "ten minutes; `cargo xtask long` runs it"]
                fn on_native() {
                    crate::run::kill_all(stringify!($store), "native");
                }

                #[test]
                #[ignore = "ten minutes; `cargo xtask long` runs it"]
                fn on_overlay() {
                    crate::run::kill_all(stringify!($store), "overlay");
                }

                #[cfg(feature = "erofs")]
                #[test]
                #[ignore = "ten minutes; `cargo xtask long` runs it"]
                fn on_erofs() {
                    crate::run::kill_all(stringify!($store), "erofs");
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

stores! {
    fs
    #[cfg(feature = "redb")]
    redb
    #[cfg(feature = "remote")]
    dir
    #[cfg(feature = "rocksdb")]
    rocksdb
}
