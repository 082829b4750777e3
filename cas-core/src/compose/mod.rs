//! Compositions: stores made of other stores.
//!
//! A composition is itself a store. It passes the conformance tests of every capability that it
//! reports, and uses its members only through their traits. The composition defines which member
//! keeps the records. A [`Composer`](crate::Composer) opens the stores of a composition by a URL.
//! The facade registers the composer.

pub mod by_size;
pub mod observe;

pub use by_size::{BySize, by_size};
pub use observe::{Counters, Observer, observe};
