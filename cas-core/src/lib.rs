//! The traits of `cas` (the storage layer for container images), and the code that depends only on
//! these traits. Except for the stores for tests in [`testing`], the crate contains no backend. It
//! has no code for file systems, HTTP or compression formats.
//!
//! Bytes are written to an [`Ingest`], hashed and checked, and published to a [`ContentStore`].
//! [`dispatch`] visits an image, from its index or manifest to its layers, and calls a [`Handler`]
//! for each descriptor. A [`Snapshotter`] keeps the directory trees into which layers are unpacked.
//! [`lease`] protects content while a job works on it, [`gc`] removes content that no image, lease
//! or label reaches, and [`transfer`] moves images between stores and registries.

pub mod background;
pub mod blob;
pub mod capability;
pub mod caught;
pub mod check;
pub mod complete;
pub mod compose;
pub mod content;
pub mod descriptor;
pub mod digest;
pub mod dispatch;
pub mod document;
mod document_type;
pub mod error;
pub mod gc;
pub mod group;
pub mod image;
pub mod labels;
pub mod layout;
pub mod lease;
pub mod limit;
pub mod location;
pub mod media_type;
pub mod nulls;
#[cfg(feature = "oci-spec")]
mod oci_spec;
pub mod owner;
pub mod platform;
pub mod pool;
pub mod progress;
pub mod records;
pub mod registry;
pub mod runtime;
pub mod snapshot;
mod store;
pub mod sync;
pub mod testing;
pub mod time;
pub mod transfer;
pub mod unique;

pub use blob::BlobInfo;
pub use capability::{Capabilities, Capability};
pub use content::{BlobReader, ContentExt, ContentStore, Ingest};
pub use descriptor::Descriptor;
pub use digest::{Algorithm, Digest, DigestPrefix, Hasher};
pub use dispatch::{Handler, Next};
pub use document::{Document, Index, Manifest};
pub use document_type::document_type;
pub use error::{Context, Error, ErrorKind, Result};
pub use image::{Image, ImageStore, ImageStoreExt};
pub use labels::Labels;
pub use location::{Location, parse_size};
pub use media_type::MediaType;
pub use owner::Owner;
pub use platform::{Platform, Platforms};
pub use progress::Progress;
pub use records::Records;
pub use registry::{Composer, Opener, Registry, SnapshotterOpener, SnapshotterParts};
pub use snapshot::Snapshotter;
pub use store::Store;
