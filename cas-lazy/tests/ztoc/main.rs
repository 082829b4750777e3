//! zTOCs: made from layers, written, read, and used to inflate spans.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test may fail anywhere"
)]

mod damage;
mod fixture;
mod spans;
mod stored;
