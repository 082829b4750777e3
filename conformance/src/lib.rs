//! The law book: what every store must do, one named test a rule.
//!
//! ```text
//! conformance::content_store!(redb, |dir| async move { RedbStore::content(dir).await });
//! ```
//!
//! makes a module `redb` with one `#[test]` for each law of [`cas_core::ContentStore`]. The
//! opener is called with a directory of its own, several times where a law drops and reopens the
//! store. `records!` does the same for [`cas_core::Records`], `image_store!` for
//! [`cas_core::ImageStore`], `snapshotter!` for [`cas_core::Snapshotter`], and `store!` holds a
//! whole [`cas_core::Store`] to those of collection. What a store cannot keep
//! it declares as a third argument, [`Gaps`].
//!
//! The laws are data as well: [`laws::content`] lists them, and [`judge`] tells what becomes of
//! one on one store. A law is an async function that panics when it is broken.
//!
//! # Adding a group
//! Write the laws in `laws/GROUP/THEME.rs` as `pub(super) async fn law(subject: Subject<dyn
//! Trait>)`, list them in `laws/GROUP/mod.rs` with the `laws!` macro, which makes the list, the
//! names and the exported macro, and add the names to [`gap::KNOWN`].

// A law is broken by a panic, so panicking is what this crate is for.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[cfg(feature = "laws")]
pub mod broken;
#[cfg(feature = "laws")]
mod crash;
#[cfg(feature = "laws")]
pub mod gap;
#[cfg(feature = "laws")]
mod judge;
#[cfg(feature = "laws")]
pub mod laws;
#[cfg(feature = "laws")]
mod material;
#[cfg(feature = "laws")]
pub mod sample;
#[cfg(feature = "laws")]
mod subject;
pub mod workload;

#[cfg(feature = "laws")]
pub use gap::Gaps;
#[cfg(feature = "laws")]
pub use judge::{Law, Promises, Trial, Verdict, judge, test};
#[cfg(feature = "laws")]
pub use subject::{Open, Opening, Subject, opening};

#[doc(hidden)]
pub use cas_core;
