//! Imports images that other programs made, exports them, and lets other programs read the exports.
//! Configurations and diff IDs never change. Manifests change only where a format cannot carry
//! them.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test may fail anywhere"
)]

#[path = "../common/mod.rs"]
mod common;
mod containerd;
mod handmade;
mod kitchen;
mod podman;
mod readers;
mod said;
mod sources;
mod tools;
mod twenty;
