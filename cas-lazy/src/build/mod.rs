//! Makes the zTOC of a layer in one pass.

mod counted;
mod gzip;
mod spans;

use std::io::{self, BufReader, Read};
use std::ops::Range;

use cas_core::{Error, Result};
use cas_layer::tar::{Entry, EntryKind, Excerpt, Reader, Stated};

pub(crate) use self::counted::Counted;
use self::gzip::Gzip;
use self::spans::Spans;
use crate::ztoc::{BLOCK, FileKind, FileMetadata, Ztoc};

/// The default span size of SOCI, in decompressed bytes.
pub const SPAN_SIZE: u64 = 4 << 20;

pub(crate) fn build(
    layer: impl Read,
    span_size: u64,
    first: Vec<Range<u64>>,
    build_tool: &str,
) -> Result<Ztoc> {
    if span_size == 0 {
        return Err(Error::invalid(
            "the span size is 0; expected at least 1 byte",
        ));
    }
    let gzip = Gzip::new(layer, Spans::new(span_size, first))?;
    let gzip = BufReader::with_capacity(64 << 10, gzip);
    let mut tar = Reader::new(Counted::new(gzip));
    let mut files: Vec<FileMetadata> = Vec::new();
    while let Some((entry, stated)) = tar.next_stated()? {
        files.push(metadata(entry, stated, tar.get_ref().position())?);
        // Reads the body to its end, so that the reader skips only its padding.
        io::copy(&mut tar, &mut io::sink())?;
    }
    let counted = tar.into_inner();
    let whole = counted.position();
    // Two end blocks may follow the last member. SOCI does not count the bytes after them.
    let end = files.last().map_or(0, FileMetadata::next_header) + 2 * BLOCK;
    let gzip = counted.into_inner().into_inner().finish()?;
    Ok(Ztoc {
        build_tool: build_tool.to_owned(),
        compressed_size: gzip.compressed_size,
        decompressed_size: end.min(whole),
        files,
        span_size,
        checkpoints: gzip.checkpoints,
        span_digests: gzip.digests,
    })
}

/// Returns the entry of the table of contents for a member whose body is at `offset`.
fn metadata(entry: Entry, stated: Stated, offset: u64) -> Result<FileMetadata> {
    if entry.regions.is_some() || stated.follows_global {
        return Err(Error::unsupported(
            "the layer has a sparse file or a global pax header, which a zTOC cannot express; the \
             layer cannot be read on demand",
        )
        .subject(Excerpt(&entry.path)));
    }
    let mut device = (0, 0);
    let (kind, link) = match entry.kind {
        EntryKind::File => (FileKind::File, Vec::new()),
        EntryKind::Directory => (FileKind::Directory, Vec::new()),
        EntryKind::Symlink(target) => (FileKind::Symlink, target),
        EntryKind::Hardlink(target) => (FileKind::Hardlink, target),
        EntryKind::Char(found) | EntryKind::Block(found) => {
            device = (found.major.into(), found.minor.into());
            match entry.kind {
                EntryKind::Char(_) => (FileKind::Char, Vec::new()),
                _ => (FileKind::Block, Vec::new()),
            }
        }
        EntryKind::Fifo => (FileKind::Fifo, Vec::new()),
    };
    Ok(FileMetadata {
        name: entry.path,
        kind,
        offset,
        size: entry.size,
        link,
        mode: stated.mode,
        uid: entry.uid,
        gid: entry.gid,
        user: stated.user,
        group: stated.group,
        modified: Some(entry.mtime),
        device,
        records: stated.records,
    })
}
