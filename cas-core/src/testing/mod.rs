//! Stores for tests: a store in memory, a store that promises no more than the traits require, and
//! a store that fails on request.

#[cfg(feature = "fault")]
pub mod fault;
pub mod memory;
pub mod strict;
