//! Reads and writes layers of container images, and applies them to directory trees. Imports,
//! exports and unpacks whole images.
//!
//! To apply a layer, [`flow`] reads a blob, [`codec`] decompresses it, [`tar`] splits it into
//! members, and [`apply`] writes them below one directory, never outside it. To create a layer,
//! [`changes`] writes the changes of an overlay as a tar. These five modules are synchronous. The
//! caller's thread reads the blob. [`flow`] starts three threads, which can be
//! [confined](flow::Confine): the first decompresses, the second hashes, and the third parses and
//! writes members. If an earlier unpack has recorded [`Checkpoints`](codec::Checkpoints) of a gzip
//! layer, more threads decompress parts of the layer.

pub mod apply;
mod buffered;
mod buffers;
pub mod changes;
pub mod codec;
mod diff_id;
pub mod export;
pub mod flow;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
pub mod import;
mod layout;
mod naming;
pub mod only_tars;
pub mod tar;
pub mod unpack;
mod warnings;

pub use buffered::read_buffered;
pub use cas_core::layout::REF_NAME;
pub use diff_id::diff_id;
pub use layout::IMAGE_NAME;
pub use naming::Naming;
pub use warnings::Warnings;
