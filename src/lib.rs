//! `cas`: pluggable content, image and snapshot storage for container images.
//!
//! ```no_run
//! fn main() -> cas::Result<()> {
//!     let cas = cas::blocking::Cas::open("/tmp/cas")?;
//!     for image in cas.import("image.tar")? {
//!         println!("{} {}", image.name, image.target.digest);
//!         cas.unpack(image.name.as_str(), "/tmp/rootfs")?;
//!     }
//!     Ok(())
//! }
//! ```
//!
//! Cargo features choose the backends and snapshotters; [`registry()`] holds those compiled in. One
//! backend is enough. Without a snapshotter, images can be stored and unpacked into directories, but
//! not into snapshots or mounts.

pub mod bundle;
mod cas;
mod root;

pub use cas_core::*;
#[cfg(feature = "registry")]
pub use cas_distribution as distribution;
pub use cas_layer as layer;

pub use self::cas::{Cas, MountOptions, Options, blocking};
pub use self::root::{Engines, RegistryTable, Table};

/// The code of the page that people read first compiles.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

/// Schemes that a build may leave out, each with the Cargo feature that brings it.
const FEATURES: &[(&str, &str)] = &[
    ("fs", "fs"),
    ("redb", "redb"),
    ("rocksdb", "rocksdb"),
    ("dir", "remote"),
    ("s3", "s3"),
    ("native", "native"),
    ("overlay", "overlay"),
];

/// Returns what is compiled in: backends, compositions and snapshotters. A new root uses the first
/// snapshotter that works on its machine.
pub fn registry() -> Registry {
    let registry = Registry::new()
        .with_composer(compose::BySize)
        .with_features(FEATURES);
    #[cfg(feature = "fs")]
    let registry = registry.with(backend_fs::FsOpener);
    #[cfg(feature = "redb")]
    let registry = registry.with(backend_redb::RedbOpener);
    #[cfg(feature = "rocksdb")]
    let registry = registry.with(backend_rocksdb::RocksOpener);
    #[cfg(feature = "remote")]
    let registry = registry.with(backend_remote::DirOpener);
    #[cfg(feature = "s3")]
    let registry = registry.with(backend_remote::S3Opener);
    #[cfg(feature = "overlay")]
    let registry = registry.with_snapshotter(snapshot_overlay::OverlayOpener);
    #[cfg(feature = "native")]
    let registry = registry.with_snapshotter(snapshot_native::NativeOpener);
    registry
}
