//! Copies the bytes of a file from the archive to the disk.

use std::io::BufRead;
use std::os::fd::BorrowedFd;

use cas_core::{Error, ErrorKind, Result};
use cas_host::{begin_write, calls};

use super::os;
use crate::tar::{Entry, Reader, Region};

/// Minimum number of bytes for which writeback is started at the end of a region, ahead of the
/// sync. Bytes of the region for which it was started before do not count. A file that is not
/// sparse is one region.
const LARGE: u64 = 256 << 10;
/// Number of written bytes after which writeback is started before the end of the region.
const WINDOW: u64 = 8 << 20;

/// Writes the stored bytes to their offsets and leaves holes. Returns the number of bytes written.
pub(super) fn write<R: BufRead>(
    file: BorrowedFd<'_>,
    entry: &Entry,
    reader: &mut Reader<R>,
) -> Result<u64> {
    let Some(regions) = &entry.regions else {
        let whole = Region {
            offset: 0,
            length: entry.size,
        };
        return region(file, whole, reader).map(|()| entry.size);
    };
    let mut written = 0;
    for &stored in regions {
        region(file, stored, reader)?;
        written += stored.length;
    }
    os(calls::ftruncate(file, entry.size))?;
    Ok(written)
}

fn region<R: BufRead>(
    file: BorrowedFd<'_>,
    Region {
        mut offset,
        mut length,
    }: Region,
    reader: &mut Reader<R>,
) -> Result<()> {
    let mut begun = offset;
    while length > 0 {
        let bytes = reader.fill_buf()?;
        if bytes.is_empty() {
            return Err(Error::internal(
                "a member has fewer bytes than its size; please report it",
            ));
        }
        let most = bytes
            .len()
            .min(usize::try_from(length).unwrap_or(usize::MAX));
        let written = match calls::pwrite(file, &bytes[..most], offset) {
            Ok(0) => {
                let message = "no byte could be written; free some disk space";
                return Err(Error::new(ErrorKind::Full, message));
            }
            written => os(written)?,
        };
        reader.consume(written);
        offset += written as u64;
        length -= written as u64;
        let waiting = offset - begun;
        if waiting >= WINDOW || (length == 0 && waiting >= LARGE) {
            begin_write(&file, begun, waiting);
            begun = offset;
        }
    }
    Ok(())
}
