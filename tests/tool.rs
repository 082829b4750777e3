//! The tool with registries, with runtimes and with hostile layers.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test may fail anywhere"
)]

mod common;
mod hostile;
#[cfg(feature = "registry")]
mod registry;
mod run;
