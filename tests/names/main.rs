//! Names of images: which are legal, how they are spelled, and what images without one get.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test may fail anywhere"
)]

#[path = "../common/mod.rs"]
mod common;
mod digests;
mod earlier;
mod given;
mod grammar;
mod library;
mod peers;
mod scene;
mod spelling;
mod unnamed;
