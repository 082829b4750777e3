//! The tool with registries, with runtimes and with hostile layers; its commands on blobs, ingests
//! and stores; root directories; and the library.
#![cfg(feature = "cli")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test may fail anywhere"
)]

mod common;
mod hostile;
mod library;
#[cfg(feature = "registry")]
mod registry;
mod roots;
mod run;
mod surface;
