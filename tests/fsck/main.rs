//! `cas fsck`: each kind of damage, on each store and each snapshotter, is found and named, and
//! repaired as far as it can be.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test may fail anywhere"
)]

mod altered;
#[cfg(feature = "s3")]
mod bucket;
#[path = "../common/mod.rs"]
mod common;
mod damage;
mod database;
#[cfg(feature = "remote")]
mod directory;
mod entries;
mod kept;
mod listed;
mod lost;
mod misplaced;
mod names;
mod places;
mod replaced;
mod scene;
mod sources;
mod stopped;
mod stray_tars;
mod tars;
mod together;
mod unharmed;
mod written;
