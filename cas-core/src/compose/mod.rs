//! Stores made of stores.
//!
//! A composition is a store again: it keeps every law whose capability it reports, and knows its
//! members only by their traits. It says which of them is the one home of records.

pub mod by_size;
pub mod observe;

pub use by_size::{BySize, by_size};
pub use observe::{Counters, Observer, observe};
