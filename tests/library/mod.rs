//! The library as a program uses it.

mod arguments;
mod blobs;
mod cache;
mod dropped;
mod layout;
mod material;
#[cfg(feature = "registry")]
mod policy;
mod stores;
mod verbs;
