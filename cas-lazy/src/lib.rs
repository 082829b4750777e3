//! Formats that make single files of a compressed layer readable, without the rest of the layer.
//!
//! A zTOC of SOCI has a table of contents of a layer that is compressed with gzip, and checkpoints,
//! from which the bytes can be inflated: [`Ztoc::build`] makes one, in one pass. [`Ztoc::spans`]
//! says which compressed bytes begin at a checkpoint, and [`Span::inflate`] decompresses them. An
//! index of SOCI lists the zTOCs of an image: [`soci`].
//!
//! A layer in the format of eStargz or zstd:chunked has its own table of contents, [`LayerToc`],
//! with digests of all pieces: [`estargz`], [`zstd_chunked`].
//!
//! All three give a [`LazyLayer`]: the members of a layer, and the pieces in which its bytes are
//! fetched, verified and decompressed.
//!
//! Nothing here reads files or the network. Every decoder has bounds, and returns an error for any
//! bytes that it cannot read.

mod build;
mod checkpoint;
pub mod estargz;
mod flatbuffer;
mod inflate;
mod layer;
mod layer_toc;
pub mod soci;
mod span;
pub mod zstd_chunked;
mod ztoc;

pub use build::SPAN_SIZE;
pub use checkpoint::{Checkpoint, WINDOW};
pub use layer::{DataPart, LazyLayer, Member, Piece, StoredTable, TableFormat};
pub use layer_toc::{Chunk, LayerFile, LayerToc};
pub use span::Span;
pub use ztoc::{FileKind, FileMetadata, Ztoc};
