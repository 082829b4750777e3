//! Helpers that the tests of several packages share.
//!
//! | module | contains |
//! |---|---|
//! | [`aci`] | App Container images |
//! | [`archive`] | a writer of valid and invalid tar archives |
//! | [`compress`] | xz and bzip2 |
//! | [`docker`] | a registry |
//! | [`inventory`] | a list of the files, mounts, records, ingests and snapshots of a root |
//! | [`kills`] | tests that kill a process at each system call that changes the disk |
//! | [`layout`] | image layouts |
//! | [`program`] | a program to put into test images |
//! | [`random`] | reproducible random numbers |
//! | [`s3`] | an S3 service, and a proxy that makes it misbehave |
//! | [`tars`] | a snapshotter that keeps nothing but tars |
//! | [`tree`] | a list of everything in a tree of files, for comparisons |

// A test fails by a panic.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

pub mod aci;
pub mod archive;
pub mod compress;
pub mod docker;
pub mod inventory;
pub mod kills;
pub mod layout;
pub mod program;
pub mod random;
pub mod s3;
pub mod tars;
pub mod tree;
