//! zTOCs. A zTOC has the table of contents of a compressed layer, and the checkpoints at which
//! decompression can begin.

mod decode;
mod encode;
mod time;

use std::collections::BTreeMap;
use std::io::Read;
use std::ops::{Range, RangeInclusive};
use std::os::unix::ffi::OsStrExt;

use cas_core::{Digest, Result};
use cas_layer::tar::Time;

use crate::build;
use crate::checkpoint::Checkpoint;
use crate::prefetch_file::PrefetchFile;
use crate::span::Span;
pub(crate) use time::parse as parse_time;

/// Size in bytes of a block of a tar.
pub(crate) const BLOCK: u64 = 512;

/// Size in bytes of the blocks that the kernel reads.
const PAGE: u64 = 4096;

/// The zTOC of a layer that is compressed with gzip.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ztoc {
    /// The program that made the zTOC.
    pub build_tool: String,
    /// Size of the compressed layer in bytes.
    pub compressed_size: u64,
    /// Size of the tar in bytes, including its two end blocks if it has them, but not the bytes
    /// after them.
    pub decompressed_size: u64,
    /// The members of the tar, in order.
    pub files: Vec<FileMetadata>,
    /// A span ends at the latest after the deflate block that makes the span larger than this
    /// number of decompressed bytes.
    pub span_size: u64,
    /// The beginnings of the spans, in order. There is at least one.
    pub checkpoints: Vec<Checkpoint>,
    /// The SHA-256 digest of the compressed bytes of each span.
    pub span_digests: Vec<Digest>,
}

/// A member of a tar. A zTOC states the offset of the member's body, but not the body's digest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileMetadata {
    /// The path as written in the tar.
    pub name: Vec<u8>,
    /// The type of the member.
    pub kind: FileKind,
    /// Offset of the body in the tar, in bytes.
    pub offset: u64,
    /// Size of the body in bytes; zero for everything that is not a file.
    pub size: u64,
    /// The target of a symbolic or a hard link.
    pub link: Vec<u8>,
    /// The mode, as in the tar header.
    pub mode: i64,
    /// Id of the owner.
    pub uid: u32,
    /// Id of the group.
    pub gid: u32,
    /// Name of the owner.
    pub user: Vec<u8>,
    /// Name of the group.
    pub group: Vec<u8>,
    /// Time of the last modification. `None` if a stored zTOC does not state it. A zTOC cannot
    /// state a year before 0 or after 9999.
    pub modified: Option<Time>,
    /// Major and minor number of a device; without meaning for everything that is not a device.
    pub device: (i64, i64),
    /// The records of the pax header, key and value. The keys of extended attributes begin with
    /// `SCHILY.xattr.`.
    pub records: BTreeMap<Vec<u8>, Vec<u8>>,
}

/// The type of a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileKind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
    /// A hard link.
    Hardlink,
    /// A character device.
    Char,
    /// A block device.
    Block,
    /// A named pipe.
    Fifo,
}

impl FileKind {
    pub(crate) const ALL: [FileKind; 7] = [
        FileKind::File,
        FileKind::Directory,
        FileKind::Symlink,
        FileKind::Hardlink,
        FileKind::Char,
        FileKind::Block,
        FileKind::Fifo,
    ];

    pub(crate) fn name(self) -> &'static [u8] {
        match self {
            FileKind::File => b"reg",
            FileKind::Directory => b"dir",
            FileKind::Symlink => b"symlink",
            FileKind::Hardlink => b"hardlink",
            FileKind::Char => b"char",
            FileKind::Block => b"block",
            FileKind::Fifo => b"fifo",
        }
    }
}

impl FileMetadata {
    /// Returns where the headers of the next member begin in the tar, in bytes.
    pub(crate) fn next_header(&self) -> u64 {
        (self.offset + self.size).next_multiple_of(BLOCK)
    }
}

impl Ztoc {
    /// Reads all of a layer that is compressed with gzip. Returns the zTOC of the layer. A span
    /// ends after the deflate block that makes the span larger than `span_size` decompressed bytes.
    /// The usual size is [`SPAN_SIZE`](crate::SPAN_SIZE). The zTOC stores `build_tool`, the name of
    /// the program that makes the zTOC.
    ///
    /// # Errors
    /// `Corrupt` for a damaged layer; `Unsupported` for a layer that is not compressed with gzip,
    /// for bytes after a gzip member that are neither zeros nor gzip, and for sparse files and
    /// global pax headers, which a zTOC cannot express; `OutOfRange` if a bound of
    /// [`limit`](cas_core::limit) is exceeded, or if a user id, a group id or a device number is
    /// out of range; `InvalidArgument` for a span size of zero; errors of `layer`.
    pub fn build(layer: impl Read, span_size: u64, build_tool: &str) -> Result<Ztoc> {
        Self::build_around(layer, Vec::new(), span_size, build_tool)
    }

    /// Reads all of a layer as [`Ztoc::build`] does. Returns the zTOC of the layer. More spans end
    /// before and after the ranges of the tar in `first`, in bytes, so that clients can fetch these
    /// ranges without the bytes around them. [`Ztoc::ranges_of`] returns the ranges of a
    /// file.
    ///
    /// # Errors
    /// As [`Ztoc::build`].
    pub fn build_around(
        layer: impl Read,
        first: Vec<Range<u64>>,
        span_size: u64,
        build_tool: &str,
    ) -> Result<Ztoc> {
        let built = build::build(layer, span_size, first, build_tool);
        built.map_err(|error| error.operation("build zTOC"))
    }

    /// Reads a stored zTOC.
    ///
    /// # Errors
    /// `Corrupt` if the zTOC is damaged, if its offsets, sizes or checkpoints contradict each
    /// other, or if a path or a size is too large; `Unsupported` if the version of the zTOC is not
    /// 0.9, or if the zTOC belongs to a layer that is not compressed with gzip; `OutOfRange` if the
    /// zTOC is too large, if the names and values in it take too much memory, or if there are more
    /// members or spans than [`limit`](cas_core::limit) allows.
    pub fn decode(bytes: &[u8]) -> Result<Ztoc> {
        decode::decode(bytes).map_err(|error| error.operation("read zTOC"))
    }

    /// Returns the bytes to store. SOCI's tools write the same bytes for the same content.
    ///
    /// # Errors
    /// `OutOfRange` if the estimated number of bytes is more than
    /// [`limit::ZTOC`](cas_core::limit::ZTOC). The estimate is never too low, but may be too high.
    pub fn encode(&self) -> Result<Vec<u8>> {
        encode::encode(self).map_err(|error| error.operation("write zTOC"))
    }

    /// Returns the ranges of the tar, in bytes, that must be fetched to read the parts of a file:
    /// the headers of the file and the parts, with the rest of their blocks of 4 KiB, because the
    /// kernel reads whole blocks. The last range may end after the tar. If several members have the
    /// path of the file, the last of them counts. Returns an empty list if no member has this path,
    /// or if the member is empty or not a regular file.
    pub fn ranges_of(&self, file: &PrefetchFile) -> Vec<Range<u64>> {
        let path = file.path().as_os_str().as_bytes();
        let mut members = self.files.iter().enumerate().rev();
        // A later member replaces an earlier one with the same path.
        let found = members.find(|(_, member)| relative(&member.name) == path);
        let Some((index, member)) =
            found.filter(|(_, member)| member.kind == FileKind::File && member.size > 0)
        else {
            return Vec::new();
        };
        let before = index.checked_sub(1).map(|before| &self.files[before]);
        let headers = before.map_or(0, FileMetadata::next_header);
        let of_part = |part: &Range<u64>| {
            let [begin, end] = [part.start, part.end].map(|at| member.offset + at.min(member.size));
            begin..end
        };
        let first = match file.parts() {
            [] => headers..member.offset + member.size,
            _ => headers..member.offset,
        };
        let ranges = [first].into_iter().chain(file.parts().iter().map(of_part));
        let used = ranges.filter(|range| !range.is_empty());
        used.map(|range| range.start - range.start % PAGE..range.end.next_multiple_of(PAGE))
            .collect()
    }

    /// Returns the indexes of the first and the last span of each range that
    /// [`ranges_of`](Ztoc::ranges_of) returns for a file.
    pub fn spans_of(&self, file: &PrefetchFile) -> Vec<RangeInclusive<u32>> {
        let span_at = |byte: u64| {
            let begun = (self.checkpoints).partition_point(|one| one.decompressed <= byte);
            begun.saturating_sub(1) as u32
        };
        let ranges = self.ranges_of(file).into_iter();
        ranges
            .map(|range| span_at(range.start)..=span_at(range.end - 1))
            .collect()
    }

    /// Returns the spans in order.
    pub fn spans(&self) -> impl Iterator<Item = Span<'_>> {
        let followers = self.checkpoints.iter().skip(1).map(Some).chain([None]);
        let starts = self.checkpoints.iter().zip(followers);
        let spans = starts.zip(&self.span_digests);
        spans.map(|((checkpoint, next), digest)| Span {
            compressed: checkpoint.start()..next.map_or(self.compressed_size, |n| n.compressed),
            decompressed: (checkpoint.decompressed, next.map(|next| next.decompressed)),
            digest: *digest,
            checkpoint,
        })
    }
}

/// Returns a path without the prefixes `/` and `./`, which it may have in a tar.
pub(crate) fn relative(mut path: &[u8]) -> &[u8] {
    while let Some(rest) = path.strip_prefix(b"./").or_else(|| path.strip_prefix(b"/")) {
        path = rest;
    }
    path
}
