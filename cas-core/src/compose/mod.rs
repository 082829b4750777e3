//! Compositions: stores made of other stores.
//!
//! A composition is itself a store. It passes the conformance tests of every capability that it
//! reports, and uses its members only through their traits. The composition defines which member
//! keeps the records. A composition whose stores can be opened by a URL has a
//! [`Composer`](crate::Composer). The function `registry` of the crate `cas` registers the
//! composer.

pub mod by_size;
pub mod observe;

pub use by_size::{BySize, by_size};
pub use observe::{Counters, Observer, observe};
