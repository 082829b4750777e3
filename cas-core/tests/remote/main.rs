//! Pulls and pushes between stores, without a network protocol.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod fake;
mod limits;
mod pull;
mod push;
mod ranges;
#[path = "../support/mod.rs"]
mod support;
mod unpack;
