//! Conformance tests for stores. Each test is a *law*, a rule that every store must keep.
//!
//! ```
//! use std::sync::Arc;
//! use cas_core::testing::memory::MemoryStore;
//!
//! conformance::content_store!(mine_content, |_dir| async {
//!     Ok(Arc::new(MemoryStore::new()) as _)
//! });
//! # fn main() {}
//! ```
//!
//! The macro makes a module `mine_content` with a `#[test]` for each law of
//! [`cas_core::ContentStore`]. The second argument is the *opener*, an async closure that captures
//! nothing. The opener receives a directory, opens the store in this directory and returns the
//! store. If the directory has no store yet, the opener creates one. A law calls the opener again
//! with the same directory to reopen the store, or to open the store twice at the same time.
//!
//! | macro | tests |
//! |---|---|
//! | [`content_store!`] | a [`cas_core::ContentStore`] |
//! | [`records!`] | a [`cas_core::Records`] |
//! | [`image_store!`] | a [`cas_core::ImageStore`] |
//! | [`store!`] | a whole [`cas_core::Store`], with its garbage collection |
//! | [`snapshotter!`] | a [`cas_core::Snapshotter`] |
//!
//! An optional third argument, [`Gaps`], lists the laws that the store cannot keep, each with the
//! reason. Some laws are about a promise, which is a [`cas_core::Capability`]. A law about a
//! promise is run only on a store whose `capabilities()` report the promise.
//!
//! A program can also run the laws. [`laws::book`] lists all laws with their reasons, [`judge`]
//! runs one law on one store, and [`report`] makes a table of all results. A law is an async
//! function that panics if the store breaks the law. [`broken`] contains stores with faults that
//! the laws must find.
//!
//! # Adding a group
//! A group contains the laws of one kind of store.
//!
//! 1. Write the laws in `laws/GROUP/THEME.rs` as `pub(super) async fn law(subject: Subject)`.
//! 2. List them in `laws/GROUP/mod.rs` with the `laws!` macro, which defines `NAMES`, `all()` and
//!    the exported macro. Declare the module in `laws/mod.rs`.
//! 3. Add `NAMES` to [`gap::KNOWN`]. Add a call of `all()` to [`laws::book`].
//! 4. Implement [`Promises`] for the kind of store that the group tests.

// A law reports a failure by a panic.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

// This module comes first, so that `laws` can use its macro.
#[macro_use]
mod suite;

pub mod broken;
mod crash;
pub mod gap;
mod judge;
mod law;
pub mod laws;
mod material;
pub mod report;
mod runner;
pub mod sample;
mod seed;
mod strace;
mod subject;

pub use judge::{Promises, Verdict, judge, skip};
pub use law::{Gaps, Law, Trial};
pub use runner::test;
pub use subject::{Open, Opening, Subject, opening};

#[doc(hidden)]
pub use cas_core;
