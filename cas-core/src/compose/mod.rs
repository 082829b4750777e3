//! Compositions: stores made of other stores.
//!
//! A composition is itself a store. It passes the conformance tests of every capability that it
//! reports, and uses its members only through their traits. The composition defines which member
//! keeps the records. A composition that users can open by a URL has a
//! [`Composer`](crate::Composer), which the function `registry` of the crate `cas` registers.

pub mod by_size;
pub mod observe;

pub use by_size::{BySize, by_size};
pub use observe::{Counters, Observer, observe};
