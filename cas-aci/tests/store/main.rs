//! The image store over stores of every kind.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test may fail anywhere"
)]

mod bad;
mod common;
mod example;
mod faults;
mod find;
mod full;
mod image;
mod list;
mod read;
mod remotes;
mod remove;
mod rkt;
mod temp;
mod write;
