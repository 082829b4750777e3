//! Stores for tests: a store in memory, a store that is stricter than real stores, and a store that
//! fails on request.

#[cfg(feature = "fault")]
pub mod fault;
pub mod memory;
pub mod strict;
