//! The law book: what every store must do, one named test a rule.
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
//! makes a module `mine_content` with one `#[test]` for each law of [`cas_core::ContentStore`]. The
//! opener is called with a directory of its own, several times where a law drops and reopens the
//! store.
//!
//! | macro | holds to its laws |
//! |---|---|
//! | [`content_store!`] | a [`cas_core::ContentStore`] |
//! | [`records!`] | a [`cas_core::Records`] |
//! | [`image_store!`] | a [`cas_core::ImageStore`] |
//! | [`store!`] | a whole [`cas_core::Store`], to those of collection |
//! | [`snapshotter!`] | a [`cas_core::Snapshotter`] |
//!
//! What a store cannot keep it declares as a third argument, [`Gaps`]. Laws of a promise that it
//! does not make are not for it.
//!
//! The laws are data as well: [`laws::book`] lists what they are and why, [`judge`] tells what
//! becomes of one on one store, and [`report`] makes a table of what became of all. A law is an
//! async function that panics when it is broken. [`broken`] holds the stores that laws must
//! convict.
//!
//! # Adding a group
//! Write the laws in `laws/GROUP/THEME.rs` as `pub(super) async fn law(subject: Subject<dyn
//! Trait>)`, list them in `laws/GROUP/mod.rs` with the `laws!` macro, which makes the list, the
//! names and the exported macro, and add the names to [`gap::KNOWN`] and the list to
//! [`laws::book`].

// A law is broken by a panic, so panicking is what this crate is for.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

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
