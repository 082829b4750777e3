//! Traits, dispatch engine and record views of `cas`, the storage layer for container images.

pub mod digest;
pub mod error;
pub mod limit;

pub use digest::{Algorithm, Digest, Hasher};
pub use error::{Context, Error, Kind, Result};
