//! Compares images that the kernel mounts, and images that another crate reads, with directories
//! that the same layers are applied to.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test may fail anywhere"
)]

mod compare;
mod odd;
mod oracle;
mod random;
