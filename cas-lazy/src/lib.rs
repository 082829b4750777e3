//! Formats for reading single files of a compressed layer without the rest of the layer.
//!
//! A SOCI zTOC belongs to a layer that is compressed with gzip. It has a table of contents of the
//! layer, and checkpoints at which decompression can begin. [`Ztoc::build`] makes a zTOC in one
//! pass over the layer. [`Ztoc::spans`] returns the spans between the checkpoints, and
//! [`Span::inflate`] decompresses a span. A SOCI index lists the zTOCs of an image: see [`soci`].
//!
//! A layer in the format eStargz or zstd:chunked contains its own table of contents, a
//! [`LayerToc`]: see [`estargz`] and [`zstd_chunked`]. A [`LayerToc`] has a digest for each chunk
//! of a file, except for chunks of zeros.
//!
//! A [`LazyLayer`] is made from either a zTOC or a [`LayerToc`]. It has the members of the layer,
//! and the pieces in which the bytes of the layer are fetched, verified and decompressed.
//!
//! Nothing here reads files or the network. Every decoder enforces the bounds of
//! [`limit`](cas_core::limit), and returns an error for any bytes that it cannot read.

mod build;
mod checkpoint;
pub mod estargz;
mod flatbuffer;
mod layer;
mod layer_toc;
mod prefetch_file;
pub mod soci;
mod span;
pub mod zstd_chunked;
mod ztoc;

pub use build::SPAN_SIZE;
pub use cas_layer::codec::inflate::WINDOW;
pub use checkpoint::Checkpoint;
pub use layer::{LazyLayer, Member, Piece, StoredTable, TableFormat};
pub use layer_toc::{Chunk, LayerFile, LayerToc};
pub use prefetch_file::PrefetchFile;
pub use span::Span;
pub use ztoc::{FileKind, FileMetadata, Ztoc};
