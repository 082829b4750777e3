//! A read-only file. Bytes that redb writes stay in memory.
//!
//! redb marks a file as open, and repairs a file that was not closed. The read-only mode of redb
//! refuses a file that was not closed. With an overlay, the mark and the repair change only memory.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Mutex;

use cas_core::sync::lock;
use redb::StorageBackend;

/// Size of a piece in bytes.
const PIECE: usize = 4 << 10;
/// Size of a page of redb in bytes.
const PAGE: u64 = 4 << 10;

/// The file, and the pieces of it that were written.
#[derive(Debug)]
pub(crate) struct Overlay {
    file: File,
    written: Mutex<Written>,
}

#[derive(Debug)]
struct Written {
    length: u64,
    /// Number of bytes at the start of the file that `set_len` has never cut off.
    intact: u64,
    pieces: BTreeMap<u64, Box<[u8]>>,
}

impl Overlay {
    pub(crate) fn new(file: File) -> io::Result<Self> {
        let length = file.metadata()?.len();
        let written = Written {
            length,
            intact: length,
            pieces: BTreeMap::new(),
        };
        Ok(Overlay {
            file,
            written: Mutex::new(written),
        })
    }

    /// Opens a damaged file with `head` in place of its start. If the file is shorter than
    /// `length`, extends it with zeros. If it is longer, cuts off an incomplete last page, which
    /// something else than redb has appended.
    pub(crate) fn with_head(file: File, head: &[u8], length: u64) -> io::Result<Self> {
        let overlay = Overlay::new(file)?;
        overlay.write(0, head)?;
        let found = overlay.len()?;
        let whole = (found - found % PAGE).max(length);
        if found != whole {
            overlay.set_len(whole)?;
        }
        Ok(overlay)
    }

    /// Reads bytes of the file. All bytes after the first `intact` bytes are read as zeros.
    fn read_file(&self, intact: u64, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let left = usize::try_from(intact.saturating_sub(offset)).unwrap_or(usize::MAX);
        let (found, zeros) = out.split_at_mut(left.min(out.len()));
        zeros.fill(0);
        self.file.read_exact_at(found, offset)
    }
}

/// Splits a range of `length` bytes where pieces end. Calls `work` for each part, with the number
/// of its piece, its position in the piece and its position in the range.
fn parts(
    offset: u64,
    length: usize,
    mut work: impl FnMut(u64, std::ops::Range<usize>, std::ops::Range<usize>) -> io::Result<()>,
) -> io::Result<()> {
    let mut done = 0;
    while done < length {
        let at = offset + done as u64;
        let start = (at % PIECE as u64) as usize;
        let size = (PIECE - start).min(length - done);
        work(at / PIECE as u64, start..start + size, done..done + size)?;
        done += size;
    }
    Ok(())
}

impl StorageBackend for Overlay {
    fn len(&self) -> io::Result<u64> {
        Ok(lock(&self.written).length)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let written = lock(&self.written);
        let end = offset.checked_add(out.len() as u64);
        if end.is_none_or(|end| end > written.length) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.read_file(written.intact, offset, out)?;
        parts(offset, out.len(), |number, inside, range| {
            if let Some(piece) = written.pieces.get(&number) {
                out[range].copy_from_slice(&piece[inside]);
            }
            Ok(())
        })
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        let mut written = lock(&self.written);
        let kept = length.div_ceil(PIECE as u64);
        written.pieces.split_off(&kept);
        let (last, end) = (length / PIECE as u64, (length % PIECE as u64) as usize);
        if let Some(piece) = written.pieces.get_mut(&last) {
            piece[end..].fill(0);
        }
        written.intact = written.intact.min(length);
        written.length = length;
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut written = lock(&self.written);
        parts(offset, data.len(), |number, inside, range| {
            if !written.pieces.contains_key(&number) {
                let mut piece = vec![0; PIECE].into_boxed_slice();
                self.read_file(written.intact, number * PIECE as u64, &mut piece)?;
                written.pieces.insert(number, piece);
            }
            if let Some(piece) = written.pieces.get_mut(&number) {
                piece[inside].copy_from_slice(&data[range]);
            }
            Ok(())
        })?;
        written.length = written.length.max(offset + data.len() as u64);
        Ok(())
    }

    fn close(&self) -> io::Result<()> {
        // Closing is not enough: a child between fork and exec may share the open file.
        self.file.unlock()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_and_the_file_is_unchanged() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("file");
        let mut expected: Vec<u8> = (0..20_000u32).map(|byte| byte as u8).collect();
        std::fs::write(&path, &expected).unwrap();
        let before = expected.clone();
        let overlay = Overlay::new(File::open(&path).unwrap()).unwrap();
        for (at, length) in [(0, 1), (4095, 2), (100, 9000), (19_999, 1), (8192, 4096)] {
            overlay.write(at as u64, &vec![7; length]).unwrap();
            expected[at..at + length].fill(7);
            let mut found = vec![0; expected.len()];
            overlay.read(0, &mut found).unwrap();
            assert!(found == expected, "{at}");
            overlay.read(at as u64, &mut found[..length]).unwrap();
            assert!(found[..length] == expected[at..at + length], "{at}");
        }
        assert_eq!(std::fs::read(&path).unwrap(), before);
    }

    /// The bytes by which redb makes a file longer are zeros, even if the file was longer before.
    #[test]
    fn the_length_changes_as_that_of_a_file_does() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("file");
        std::fs::write(&path, vec![1; 10_000]).unwrap();
        let overlay = Overlay::new(File::open(&path).unwrap()).unwrap();
        let mut found = vec![9; 4];
        overlay.read(10_000, &mut found).unwrap_err();
        overlay.set_len(20_000).unwrap();
        overlay.read(9_998, &mut found).unwrap();
        assert_eq!(found, [1, 1, 0, 0]);
        overlay.write(15_000, &[5; 4]).unwrap();
        for shorter in [15_002, 12_000, 9_999, 5_000] {
            overlay.set_len(shorter).unwrap();
            overlay.set_len(20_000).unwrap();
            let mut left = vec![9; (20_000 - shorter) as usize];
            overlay.read(shorter, &mut left).unwrap();
            assert!(left.iter().all(|byte| *byte == 0), "{shorter}");
        }
        overlay.read(4_998, &mut found).unwrap();
        assert_eq!(found, [1, 1, 0, 0]);
        overlay.read(u64::MAX, &mut found).unwrap_err();
        assert_eq!(overlay.len().unwrap(), 20_000);
    }
}
