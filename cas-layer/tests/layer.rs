//! Applying, writing, importing, exporting and unpacking layers.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod apply;
mod changes;
mod common;
mod export;
mod import;
mod unpack;
