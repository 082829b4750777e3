//! A layer that is read on demand: its members, and the pieces that its bytes arrive in.

mod members;
mod pieces;
mod stored;

use std::ops::Range;

use cas_core::{Digest, Error, Result};
use cas_layer::codec::Compression;
use cas_layer::tar::{Entry, Excerpt};

use self::members::header_differs;
use self::pieces::Source;
pub use self::stored::{StoredTable, TableFormat};
use crate::estargz::OwnFile;
use crate::layer_toc::LayerToc;
use crate::ztoc::{BLOCK, Ztoc, relative};

/// The name of a file of some eStargz layers. The files before it are those that containers read
/// when they start.
const LANDMARK: &[u8] = b".prefetch.landmark";

/// A layer that is read on demand. The content of its files is in one data file of
/// [`length`](Self::length) bytes, which arrive in pieces. Bytes that belong to no piece are zeros.
#[derive(Debug)]
pub struct LazyLayer {
    members: Vec<Member>,
    pieces: Vec<Piece>,
    length: u64,
    source: Source,
}

/// A member of a layer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// The metadata of the member in the tar. The member is not a sparse file.
    pub entry: Entry,
    /// Offset in bytes of the member's content in the data file, a multiple of 512.
    pub offset: u64,
}

/// A part of the layer that is fetched and decompressed as a whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// The range of the compressed bytes in the layer. It is not empty. Two neighboring pieces may
    /// share a byte.
    pub compressed: Range<u64>,
    /// The range of the data file from the first byte of the piece to its last. It includes the
    /// padding between the files of the piece. Pieces are in the order of these ranges. The ranges
    /// do not overlap.
    pub data: Range<u64>,
}

impl LazyLayer {
    /// Returns the members in the order of the layer.
    pub fn members(&self) -> &[Member] {
        &self.members
    }

    /// Returns the length of the data file in bytes, a multiple of 512.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// Returns the minimum length in bytes of the bytes to store. Zeros follow them to
    /// [`length`](Self::length): a tar may end within the last block of a file. The last piece may
    /// have more bytes.
    pub fn stored_length(&self) -> u64 {
        match &self.source {
            Source::Ztoc(ztoc) => ztoc.decompressed_size,
            Source::Toc { .. } => self.length,
        }
    }

    /// Returns the pieces in the order of their bytes in the data file.
    pub fn pieces(&self) -> &[Piece] {
        &self.pieces
    }

    /// Returns whether the complete data file is the tar of the layer. Otherwise it contains only
    /// the content of the files.
    pub fn is_tar(&self) -> bool {
        matches!(self.source, Source::Ztoc(_))
    }

    /// Returns how the whole layer is compressed.
    pub fn compression(&self) -> Compression {
        match &self.source {
            Source::Ztoc(_) => Compression::Gzip,
            Source::Toc { compression, .. } => *compression,
        }
    }

    /// Returns the indexes of the pieces that have bytes in `range`, a range of the data file.
    pub fn pieces_in(&self, range: Range<u64>) -> Range<usize> {
        let first = self
            .pieces
            .partition_point(|piece| piece.data.end <= range.start);
        let end = self
            .pieces
            .partition_point(|piece| piece.data.start < range.end);
        first..end.max(first)
    }

    /// Returns the indexes of the pieces that have bytes before the content of the file
    /// `.prefetch.landmark`. The files before it are those that containers read when they start.
    /// Returns an empty range if the layer does not have this file.
    pub fn before_landmark(&self) -> Range<usize> {
        let is_landmark = |member: &&Member| relative(&member.entry.path) == LANDMARK;
        let landmark = self.members.iter().find(is_landmark);
        landmark.map_or(0..0, |member| self.pieces_in(0..member.offset))
    }

    /// Verifies and decompresses a piece. `piece` is its index in [`pieces`](Self::pieces), and
    /// `compressed` has the bytes of its [`compressed`](Piece::compressed) range. Passes the bytes
    /// of the piece to `write` in parts, each with its offset in the data file. The parts must not
    /// be used if this returns an error.
    ///
    /// # Errors
    /// `Corrupt` if the bytes cannot be decompressed, or do not have the digest or the length that
    /// the table of contents states; `OutOfRange` if they decompress to more than
    /// [`limit::SPAN`](cas_core::limit::SPAN) bytes; `Internal` if the layer does not have this
    /// piece; errors of `write`.
    pub fn decode(
        &self,
        piece: usize,
        compressed: &[u8],
        mut write: impl FnMut(u64, &[u8]) -> Result<()>,
    ) -> Result<()> {
        self.source
            .decode(piece, compressed, &mut write)
            .map_err(|error| error.operation("read layer on demand"))
    }

    /// Returns the headers that must be checked with [`check_header`](Self::check_header) before
    /// `range` of the data file is used. Each element has the index of a member, and the range of
    /// its headers in the data file. Returns an empty list if the data file [is not a
    /// tar](Self::is_tar), because the table of contents then has digests of all files.
    pub fn headers_before(&self, range: Range<u64>) -> Vec<(usize, Range<u64>)> {
        if !self.is_tar() {
            return Vec::new();
        }
        let first = self
            .members
            .partition_point(|member| end_of(member) <= range.start);
        let members = self.members[first..].iter().enumerate();
        let members = members.map(|(index, member)| (first + index, member));
        let used = members.take_while(|(_, member)| member.offset < range.end);
        used.map(|(index, member)| (index, self.header_begin(index)..member.offset))
            .collect()
    }

    /// Compares the header of a member with what the table of contents states about the member.
    ///
    /// # Errors
    /// `Corrupt` if they differ, or if the header is damaged; `OutOfRange` if a value of the header
    /// is out of range.
    pub fn check_header(&self, member: usize, header: &[u8]) -> Result<()> {
        let stated = &self.members[member].entry;
        if header_differs(header, stated)? {
            return Err(Error::corrupt(
                "the table of contents and the header in the layer contradict each other; pull \
                 the image without loading it on demand",
            )
            .subject(Excerpt(&stated.path)));
        }
        Ok(())
    }

    /// Returns where the headers of a member begin in the tar.
    fn header_begin(&self, member: usize) -> u64 {
        let before = member.checked_sub(1).map(|before| &self.members[before]);
        before.map_or(0, end_of)
    }
}

/// Returns where the content of a member and its padding end.
fn end_of(member: &Member) -> u64 {
    (member.offset + member.entry.size).next_multiple_of(BLOCK)
}

impl TryFrom<Ztoc> for LazyLayer {
    type Error = Error;

    /// Returns the layer that a zTOC describes.
    ///
    /// # Errors
    /// `Unsupported` for a member without a time, or with an owner, a device number or headers that
    /// cannot be used; as [`Entry::check`]; `Corrupt` for a member that cannot be applied in any
    /// tree; `OutOfRange` if a span has more than [`limit::SPAN`](cas_core::limit::SPAN) bytes,
    /// compressed or decompressed.
    fn try_from(ztoc: Ztoc) -> Result<Self> {
        let members = members::of_ztoc(&ztoc)?;
        let length = ztoc.decompressed_size.next_multiple_of(BLOCK);
        let pieces = pieces::of_ztoc(&ztoc, length)?;
        // The members have the same metadata, and take as much memory.
        let ztoc = Ztoc {
            files: Vec::new(),
            ..ztoc
        };
        Ok(LazyLayer {
            members,
            pieces,
            length,
            source: Source::Ztoc(ztoc),
        })
    }
}

impl LazyLayer {
    /// Adds the last file of an eStargz layer, which contains the table of contents. Its compressed
    /// bytes are at `compressed`, and its content has this digest.
    fn add_own_file(&mut self, own: OwnFile, compressed: Range<u64>, digest: Digest) -> Result<()> {
        let (offset, size) = (self.length, own.entry.size);
        let (piece, stream) =
            pieces::of_file(compressed, own.inner, offset..offset + size, digest)?;
        self.length = piece.data.end.next_multiple_of(BLOCK);
        self.pieces.push(piece);
        if let Source::Toc { streams, .. } = &mut self.source {
            streams.push(stream);
        }
        let entry = own.entry;
        self.members.push(Member { entry, offset });
        Ok(())
    }

    /// Returns the layer that a table of contents with digests describes. `end` is where the
    /// compressed bytes of the files end.
    fn of_toc(toc: &LayerToc, compression: Compression, end: u64) -> Result<Self> {
        let (members, length) = members::of_toc(toc)?;
        let (pieces, streams) = pieces::of_toc(toc, &members, end)?;
        Ok(LazyLayer {
            members,
            pieces,
            length,
            source: Source::Toc {
                streams,
                compression,
            },
        })
    }
}
