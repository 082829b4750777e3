//! Copies the bytes of one file into another, by reflink if the file system supports that.

use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::SeekFrom;
use rustix::io::Errno;

use crate::calls::{self, undisturbed};

/// Size in bytes of the buffer for copies that the kernel cannot make.
const PIECE: usize = 256 << 10;

/// Copies up to `length` bytes in the kernel, from the offset `at` of `from` to the offset `offset`
/// of `to`. Uses a reflink if the file system supports that. Returns the number of copied bytes:
/// zero at the end of `from`, or if the kernel cannot copy between these files.
///
/// # Errors
/// Errors of the file system.
pub fn copy_range(
    from: impl AsFd,
    at: u64,
    to: impl AsFd,
    offset: u64,
    length: usize,
) -> io::Result<usize> {
    Ok(try_copy_range(
        from.as_fd(),
        at,
        to.as_fd(),
        offset,
        length,
    )?)
}

fn try_copy_range(
    from: BorrowedFd<'_>,
    mut at: u64,
    to: BorrowedFd<'_>,
    mut offset: u64,
    length: usize,
) -> Result<usize, Errno> {
    let copy = || {
        let (read, written) = (Some(&mut at), Some(&mut offset));
        rustix::fs::copy_file_range(from, read, to, written, length)
    };
    match undisturbed(copy) {
        Err(Errno::XDEV | Errno::NOSYS | Errno::INVAL | Errno::OPNOTSUPP) => Ok(0),
        copied => copied,
    }
}

/// Copies the first `length` bytes of `from`, except holes, to the offset `start` of `to`. If
/// `from` has fewer bytes, copies all of them. `to` must not have data at or after the offset
/// `start`, but may have a hole there. If the first `length` bytes of `from` end with a hole, this
/// hole does not extend `to`. Changes the position of `from`.
///
/// # Errors
/// Errors of the file systems.
pub fn copy_data(from: impl AsFd, length: u64, to: impl AsFd, start: u64) -> io::Result<()> {
    Ok(copy_with_holes(from.as_fd(), length, to.as_fd(), start)?)
}

pub(crate) fn copy_with_holes(
    from: BorrowedFd<'_>,
    length: u64,
    to: BorrowedFd<'_>,
    start: u64,
) -> Result<(), Errno> {
    let mut at = 0;
    while let Some(data) = seek(from, SeekFrom::Data(at), length)? {
        let end = seek(from, SeekFrom::Hole(data), length)?.unwrap_or(length);
        copy_extent(from, data..end, to, start + data)?;
        at = end;
    }
    Ok(())
}

/// Copies a range of one file to the offset `start` of another.
pub(crate) fn copy_extent(
    from: BorrowedFd<'_>,
    Range { start: mut at, end }: Range<u64>,
    to: BorrowedFd<'_>,
    start: u64,
) -> Result<(), Errno> {
    let mut out = start;
    while at < end {
        let rest = usize::try_from(end - at).unwrap_or(usize::MAX);
        let copied = match try_copy_range(from, at, to, out, rest)? {
            0 => copy_through_memory(from, at..end, to, out)?,
            copied => copied as u64,
        };
        at += copied;
        out += copied;
    }
    Ok(())
}

/// Copies a range of one file to an offset of another. Returns the length of the range.
fn copy_through_memory(
    from: BorrowedFd<'_>,
    Range { start, end }: Range<u64>,
    to: BorrowedFd<'_>,
    mut out: u64,
) -> Result<u64, Errno> {
    let mut buffer = vec![0; PIECE];
    let mut at = start;
    while at < end {
        let most = usize::try_from(end - at).map_or(PIECE, |rest| rest.min(PIECE));
        let read = calls::pread(from, &mut buffer[..most], at)?;
        if read == 0 {
            return Err(Errno::IO);
        }
        at += read as u64;
        let mut piece = &buffer[..read];
        while !piece.is_empty() {
            let written = calls::pwrite(to, piece, out)?;
            piece = &piece[written..];
            out += written as u64;
        }
    }
    Ok(end - start)
}

/// Returns the offset of the next data or hole, or `None` if there is none before `size`.
pub(crate) fn seek(file: BorrowedFd<'_>, to: SeekFrom, size: u64) -> Result<Option<u64>, Errno> {
    match calls::seek(file, to) {
        Ok(at) if at < size => Ok(Some(at)),
        Ok(_) | Err(Errno::NXIO) => Ok(None),
        Err(error) => Err(error),
    }
}
