//! Traits and helpers for authors of backends and snapshotters.
//!
//! A store is a [`ContentStore`] and its [`Records`]. An [`Opener`] opens such stores, and a
//! [`SnapshotterOpener`] opens a [`Snapshotter`]. A [`Registry`](crate::Registry) contains the
//! openers. The crate `oci-cas-conformance` tests stores and snapshotters, and
//! `docs/NEW-BACKEND.md` explains how to write them.

pub use cas_core::background;
pub use cas_core::capability::{Capabilities, Capability};
pub use cas_core::content::{BlobReader, ContentStore, Ingest, check_key};
pub use cas_core::group;
pub use cas_core::image::{ImageStore, ImageStoreExt, RecordImages};
pub use cas_core::pool;
pub use cas_core::records::{Records, conflict};
pub use cas_core::registry::{Composer, Opener, SnapshotterOpener, SnapshotterParts};
pub use cas_core::snapshot::Snapshotter;
pub use cas_core::sync;
pub use cas_core::unique;
