//! The description of a layer that is read on demand. One file of the layer's snapshot contains
//! this description. Another file contains the bytes of the table of contents, unchanged since they
//! were fetched.

use std::ops::Range;

use cas_core::{Descriptor, Digest, Error, MediaType, Result, error::malformed, limit};
use cas_layer::codec::Compression;
use serde::{Deserialize, Serialize};

use super::LazyLayer;
use crate::zstd_chunked::Position;
use crate::{Ztoc, estargz, zstd_chunked};

/// The description of a layer that is read on demand, without the table of contents itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredTable {
    /// The reference of the image. It names the registry and the repository of the layer.
    pub reference: String,
    /// The compressed layer.
    pub layer: Descriptor,
    /// The digest of the decompressed layer.
    pub diff_id: Digest,
    /// The format of the table of contents.
    pub format: TableFormat,
}

/// The format of a table of contents, with the values that are needed to verify and read the table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TableFormat {
    /// A SOCI zTOC.
    Ztoc {
        /// The digest of the zTOC.
        digest: Digest,
    },
    /// The table of an eStargz layer: the compressed bytes of the layer from `offset` to the
    /// footer.
    Estargz {
        /// The digest of the decompressed table.
        digest: Digest,
        /// Offset of the table in the layer, in bytes.
        offset: u64,
    },
    /// The table of a zstd:chunked layer. The compressed table is at `position` in the layer.
    ZstdChunked {
        /// The digest of the compressed table.
        digest: Digest,
        /// The position of the table in the layer.
        position: Position,
    },
}

impl StoredTable {
    /// The name of the file that contains the bytes of [`to_bytes`](Self::to_bytes). The file is in
    /// the top directory of the snapshot's tree.
    pub const FILE: &str = "lazy.json";
    /// The name of the file that contains the bytes of the table of contents. The file is in the
    /// same directory as [`FILE`](Self::FILE).
    pub const TABLE_FILE: &str = "lazy.toc";
    /// The name of the file that contains a [prefetch artifact](crate::soci::Prefetch). The file is
    /// in the same directory as [`FILE`](Self::FILE). Not every layer has this file.
    pub const PREFETCH_FILE: &str = "lazy.prefetch";
    /// The prefix of the names of all files that a snapshot has for a layer that is read on demand,
    /// except [`TAR_FILE`](Self::TAR_FILE).
    pub const PREFIX: &str = "lazy.";
    /// The name of the [data file](LazyLayer). The data file, [`PIECES_FILE`](Self::PIECES_FILE),
    /// [`BYTES_FILE`](Self::BYTES_FILE), [`READ_FILE`](Self::READ_FILE) and
    /// [`TAR_FILE`](Self::TAR_FILE) are not in the tree of the snapshot, but beside the tree, in
    /// the directory of the snapshot. Pieces that have not arrived are holes. If the layer has a
    /// zTOC, the complete data file is the tar of the layer. Once this tar was found to have the
    /// diff ID, the data file is renamed to [`TAR_FILE`](Self::TAR_FILE).
    pub const DATA_FILE: &str = "lazy.data";
    /// The name of the file with one little-endian integer of [`PIECE_RECORD`](Self::PIECE_RECORD)
    /// bytes for each piece. The integer is the checksum of the piece's bytes in the data file, or
    /// 0 if the piece has not arrived. If the file has no integer for a piece because the file is
    /// too short, the piece has not arrived.
    pub const PIECES_FILE: &str = "lazy.pieces";
    /// Number of bytes for each piece in [`PIECES_FILE`](Self::PIECES_FILE).
    pub const PIECE_RECORD: usize = size_of::<u64>();
    /// The name of the file with the [progress](cas_core::snapshot::OnDemandBytes) of the layer, as
    /// JSON. A power failure may lose this file.
    pub const BYTES_FILE: &str = "lazy.bytes";
    /// The name of the file with the [members](crate::Member) and the ranges of the tar that were
    /// read, as JSON. A layer without a zTOC does not have this file. A power failure may lose this
    /// file.
    pub const READ_FILE: &str = "lazy.read";
    /// The name of the tar of the layer. The file exists once the tar is complete and was found to
    /// have the diff ID. Its modification time is the beginning of 1970.
    pub const TAR_FILE: &str = "layer.tar";

    /// Reads `bytes`, the content of [`PIECES_FILE`](Self::PIECES_FILE). Returns one checksum for
    /// each of the first `pieces` pieces, or 0 for a piece that has not arrived.
    pub fn piece_sums(bytes: &[u8], pieces: usize) -> Vec<u64> {
        let (records, _) = bytes.as_chunks();
        let sums = records.iter().map(|record| u64::from_le_bytes(*record));
        sums.chain(std::iter::repeat(0)).take(pieces).collect()
    }

    /// Parses the bytes that [`to_bytes`](Self::to_bytes) has returned.
    ///
    /// # Errors
    /// `Corrupt` if the bytes do not parse.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self> {
        serde_json::from_slice(bytes)
            .map_err(|error| malformed("not a valid description of a layer (lazy.json)", &error))
    }

    /// Returns the bytes to store.
    ///
    /// # Errors
    /// `Internal` if the description cannot be serialized.
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        serde_json::to_vec(self).map_err(|error| {
            Error::internal("the description of a layer could not be serialized; please report it")
                .source(error)
        })
    }

    /// Returns the blob that contains the table of contents, and the range of the table in this
    /// blob. The blob is the layer or a zTOC. The size of a zTOC is not known, so the range of a
    /// zTOC has the maximum length, [`limit::ZTOC`].
    ///
    /// # Errors
    /// `Corrupt` if the range of an eStargz or zstd:chunked table is empty, extends beyond the end
    /// of the layer, or is longer than [`limit::LAYER_TOC`].
    pub fn place(&self) -> Result<(Descriptor, Range<u64>)> {
        let range = match &self.format {
            TableFormat::Ztoc { digest } => {
                let blob = Descriptor::new(MediaType::from(""), *digest, limit::ZTOC);
                return Ok((blob, 0..limit::ZTOC));
            }
            TableFormat::Estargz { offset, .. } => {
                *offset..self.layer.size.saturating_sub(estargz::FOOTER as u64)
            }
            TableFormat::ZstdChunked { position, .. } => {
                position.offset..position.offset.saturating_add(position.length)
            }
        };
        if range.is_empty()
            || range.end > self.layer.size
            || range.end - range.start > limit::LAYER_TOC
        {
            return Err(Error::corrupt(
                "the description of a layer states a range for the table of contents that is \
                 empty, too large, or not in the layer; pull the image again",
            )
            .subject(self.layer.digest));
        }
        Ok((self.layer.clone(), range))
    }

    /// Verifies and reads the table of contents in `bytes`. Returns the layer that the table
    /// describes.
    ///
    /// # Errors
    /// `Corrupt` if the table does not have the digest in `format` or is damaged, if it describes a
    /// member that cannot be applied, or if a zTOC was made for a layer of another size;
    /// `Unsupported` if the version of the table is not supported, or if the layer cannot be read
    /// on demand; `OutOfRange` if a bound of [`limit`] is exceeded, for example by a long name.
    pub fn read(&self, bytes: &[u8]) -> Result<LazyLayer> {
        match &self.format {
            TableFormat::Ztoc { digest } => {
                let found = Digest::of(digest.algorithm(), bytes);
                if found != *digest {
                    return Err(Error::corrupt(format!(
                        "the zTOC has the digest {found}, expected {digest}; fetch it again"
                    )));
                }
                let ztoc = Ztoc::decode(bytes)?;
                if ztoc.compressed_size != self.layer.size {
                    return Err(Error::corrupt(format!(
                        "the zTOC was made for a layer of {} bytes, but this layer has {} bytes; \
                         create the zTOC again",
                        ztoc.compressed_size, self.layer.size
                    )));
                }
                ztoc.try_into()
            }
            TableFormat::Estargz { digest, offset } => {
                let (toc, own) = estargz::own_file(bytes, *offset, digest)?;
                own.check()?;
                let mut layer = LazyLayer::of_toc(&toc, Compression::Gzip, *offset)?;
                layer.add_own_file(own, *offset..*offset + bytes.len() as u64, *digest)?;
                Ok(layer)
            }
            TableFormat::ZstdChunked { digest, position } => {
                let toc = zstd_chunked::decode(bytes, *position, digest)?;
                LazyLayer::of_toc(&toc, Compression::Zstd, position.offset)
            }
        }
    }
}
