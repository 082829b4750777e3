//! Images of other programs come in, go out, and go into the other programs, unchanged.
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
