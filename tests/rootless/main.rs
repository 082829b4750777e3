//! The tool for people without superuser rights: a user who has only their home. The superuser who
//! runs these tests becomes that user for each command.
#![cfg(feature = "cli")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test may fail anywhere"
)]

#[path = "../common/mod.rs"]
mod common;
mod day;
mod left;
mod run;
mod scene;
mod unpack;
mod unshare;
