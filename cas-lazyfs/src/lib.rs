//! Serves the data files of layers that are read on demand, in one small FUSE file system.
//!
//! A piece is a part of a layer that is fetched and decompressed as a whole. If the kernel reads a
//! data file, [`Session`] passes the request to [`Files`]. The missing pieces that the read needs
//! are then fetched with a [`Fetch`], verified, decompressed, and written to the data file. A byte
//! is served only after its piece was verified.
//!
//! ```text
//! snapshots/7/          the directory of a snapshot, see `cas_host::snapshotter`
//!   fs/lazy.json        what the layer is, and where it comes from
//!   fs/lazy.toc         its table of contents
//!   fs/lazy.prefetch    the spans to fetch before all others, if the image lists them
//!   lazy.data           the data file; what has not arrived is a hole
//!   lazy.pieces         for each piece that is in the data file, the checksum of its bytes
//!   lazy.bytes          how many bytes were read, fetched and verified
//!   lazy.read           which files were read, in order
//!   layer.tar           the tar of the layer, once all of it has arrived and matches the diff ID
//! ```
//! The checksum of a piece is written after the piece is on the device, so a piece that has a
//! checksum after a crash is whole. A later process compares each piece with its checksum before
//! it serves bytes of the piece. A piece is fetched again if it has no checksum, or if its bytes do
//! not match the checksum.
//!
//! The name of a data file is the number of its snapshot. If the records of a root or the root
//! itself are lost while a session is served, another snapshot can get the same number. So the
//! kernel looks up the name again for each opening. The reply identifies the layer by a digest of
//! its description (`lazy.json`). If the digest has changed since an earlier look-up, the kernel
//! does not use what it has in memory, and reads of files that were opened before fail.
//!
//! A session belongs to a file descriptor. If the process that serves the session dies, another
//! process that has the descriptor continues the session with [`Session::resume`]. Requests that
//! were not answered are then sent again. If no process has the descriptor, the kernel can only
//! read bytes that it has in memory. Other reads fail.

mod arrival;
mod bytes;
mod complete;
mod files;
mod fuse;
mod layer;
mod place;
mod read;

use std::ops::Range;

use cas_core::Result;
use cas_lazy::StoredTable;

pub use files::Files;
pub use fuse::{Session, mount};
pub use read::FilesRead;

/// Fetches compressed bytes of layers.
pub trait Fetch: Send + Sync {
    /// Returns the bytes `range` of the compressed layer. The caller verifies them. May block.
    /// Reads of the layer wait meanwhile, so the implementation must limit this time.
    ///
    /// # Errors
    /// Errors of the registry.
    fn fetch(&self, layer: &StoredTable, range: Range<u64>) -> Result<Vec<u8>>;
}
