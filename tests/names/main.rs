//! Names of images: which names are legal, how they are spelled, and how images without a name are
//! called.
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
mod pinned;
mod scene;
mod spelling;
mod unnamed;
