//! Stores for tests: in memory, stricter than any real store, and failing on request.

#[cfg(feature = "fault")]
pub mod fault;
pub mod memory;
pub mod strict;
