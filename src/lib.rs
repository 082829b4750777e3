//! `cas`: pluggable content, image and snapshot storage for container images.
//!
//! ```no_run
//! # #[cfg(feature = "registry")]
//! # async fn run() -> cas::Result<()> {
//! use cas::Cas;
//!
//! let cas = Cas::open("/var/lib/app").await?;
//! let image = cas.pull("registry.example/team/app:1").await?;
//! cas.unpack(&image, "/tmp/rootfs").await?;
//! cas.mount(&image, "/mnt").await?;
//! # Ok(())
//! # }
//! ```
//!
//! The same code without an async runtime:
//!
//! ```no_run
//! # #[cfg(feature = "registry")]
//! # fn run() -> cas::Result<()> {
//! use cas::blocking::Cas;
//!
//! let cas = Cas::open("/var/lib/app")?;
//! let image = cas.pull("registry.example/team/app:1")?;
//! cas.unpack(&image, "/tmp/rootfs")?;
//! cas.mount(&image, "/mnt")?;
//! # Ok(())
//! # }
//! ```
//!
//! Many methods have a second form that takes options:
//!
//! ```no_run
//! # #[cfg(feature = "registry")]
//! # async fn run(cas: cas::Cas) -> cas::Result<()> {
//! use std::sync::Arc;
//!
//! use cas::progress::Event;
//! use cas::{Platform, Policy, PullOptions};
//!
//! let options = PullOptions::default()
//!     .with_platforms(Platform::new("linux", "arm64"))
//!     .with_policy(Policy::Missing)
//!     .with_unpack(true)
//!     .with_progress(Arc::new(|event: Event<'_>| println!("{event:?}")));
//! let pulled = cas.pull_with("registry.example/team/app:1", options).await?;
//! println!("{} {:?}", pulled.image.name, pulled.snapshot);
//! # Ok(())
//! # }
//! ```
//!
//! [`Cas::open`] opens a root: a directory with settings, a store of images, and snapshots. Cargo
//! features choose the backends and the snapshotters that are compiled in, and [`registry()`]
//! returns them. A backend provides stores. A snapshotter provides snapshots: file trees that can
//! be mounted. A root needs a backend, but not a snapshotter. Without a snapshotter, images can be
//! stored and unpacked into directories, but neither mounted nor unpacked into snapshots.

#[cfg(feature = "aci")]
pub mod aci;
pub mod backend;
pub mod bundle;
mod cas;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
#[cfg(feature = "on-demand")]
mod on_demand;
mod root;

#[cfg(feature = "testing")]
pub use cas_core::testing;
pub use cas_core::{
    Algorithm, BlobInfo, ContentExt, Context, Descriptor, Digest, DigestPrefix, Document, Error,
    ErrorKind, Hasher, Image, Index, Labels, Location, Manifest, MediaType, Owner, Platform,
    Platforms, Progress, Registry, Result, Store, parse_size,
};
pub use cas_core::{
    blob, check, compose, content, dispatch, error, gc, image, labels, lease, limit, platform,
    progress, records, snapshot, transfer,
};
#[cfg(feature = "registry")]
pub use cas_distribution as distribution;
#[cfg(feature = "erofs")]
pub use cas_erofs as erofs;
pub use cas_layer as layer;
#[cfg(feature = "soci")]
pub use cas_lazy as lazy;

pub use cas_layer::export::ExportOptions;

pub use self::bundle::BundleOptions;
pub use self::cas::{
    Cas, CopyOptions, DeleteOptions, EndedRun, FsckOptions, ImageRef, ImportOptions, IngestInfo,
    Listed, Listing, MountOptions, MountSnapshotOptions, NewName, OpenOptions, QueryOptions,
    RootDirOptions, Run, SnapshotOptions, StoredImage, UnmountOptions, UnpackOptions, UsageOptions,
    blocking,
};
#[cfg(feature = "erofs")]
pub use self::cas::{DiskFormat, DiskOptions};
#[cfg(feature = "registry")]
pub use self::cas::{ParallelPull, Policy, PullOptions, PushOptions, RegistryRef};
#[cfg(feature = "soci")]
pub use self::cas::{SociIndex, SociLayer, SociOptions};
pub use self::gc::{GcOptions, PruneOptions};
#[cfg(feature = "on-demand")]
pub use self::on_demand::{Held, OnDemand, RegistryTables};
pub use self::root::{Engines, Keep, LazyTable, PolicyTable, RegistryTable, RemoteTable, Table};
#[cfg(feature = "registry")]
pub use self::root::{PullMode, PullModes, RemoteSettings};

/// Compiles the code in README.md.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

/// Schemes of backends and snapshotters that a build may leave out, each with the Cargo feature
/// that adds it.
const FEATURES: &[(&str, &str)] = &[
    ("fs", "fs"),
    ("redb", "redb"),
    ("rocksdb", "rocksdb"),
    ("dir", "remote"),
    ("s3", "s3"),
    ("erofs", "erofs"),
    ("native", "native"),
    ("overlay", "overlay"),
];

/// Returns the backends, compositions and snapshotters that are compiled in. A new root uses the
/// first snapshotter that works on its machine.
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
    #[cfg(feature = "erofs")]
    let registry = registry.with_snapshotter(snapshot_erofs::ErofsOpener);
    registry
}
