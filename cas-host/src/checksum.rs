//! The checksum of the bytes of a file: XXH3 with 64 bits. It finds accidental changes and is much
//! faster than a digest. It does not protect against deliberate changes.

use std::fs::File;
use std::io::{self, ErrorKind, Read};
use std::ops::Range;
use std::os::fd::AsFd;

use rustix::fs::SeekFrom;
use xxhash_rust::xxh3::Xxh3Default;

use crate::copy_data::seek;
use crate::{Pace, fill};

/// Size in bytes of the buffer that files are read into.
const BUFFER: usize = 256 << 10;
/// A piece of a file that its checksum leaves out.
const ZEROS: [u8; 4096] = [0; 4096];

/// Reads files and returns their checksums. May have a maximum rate.
pub(crate) struct Sums {
    buffer: Box<[u8]>,
    pace: Pace,
    with_zeros: bool,
}

impl Sums {
    /// Returns a value that reads at most `per_second` bytes per second, or as fast as possible if
    /// `per_second` is `None`.
    pub(crate) fn new(per_second: Option<u64>) -> Self {
        Sums {
            buffer: vec![0; BUFFER].into_boxed_slice(),
            pace: Pace::new(per_second),
            with_zeros: false,
        }
    }

    /// Returns a value whose checksums are of all bytes of a file, holes and zeros included.
    pub(crate) fn with_zeros(self) -> Self {
        Sums {
            with_zeros: true,
            ..self
        }
    }

    /// Reads a file to its end, but not its holes. Returns its checksum, with 1 in place of 0.
    ///
    /// The file is divided into pieces of 4096 bytes. Pieces that have only zeros are left out, so
    /// a hole and stored zeros give the same checksum. If pieces were left out before a piece, its
    /// offset is added to the checksum. The checksum does not depend on zeros at the end, so the
    /// caller must compare the sizes of files, too.
    pub(crate) fn of(&mut self, file: File) -> io::Result<u64> {
        if self.with_zeros {
            return self.of_all(file);
        }
        let mut sum = Sum::default();
        // The holes of a small file are not worth a search.
        let mut at = BUFFER as u64;
        if self.add(&file, 0..at, &mut sum)? < at {
            return Ok(sum.digest());
        }
        while let Some(data) = seek(file.as_fd(), SeekFrom::Data(at), u64::MAX)? {
            let Some(hole) = seek(file.as_fd(), SeekFrom::Hole(data), u64::MAX)? else {
                break;
            };
            let piece = ZEROS.len() as u64;
            at = hole.next_multiple_of(piece);
            self.add(&file, data - data % piece..at, &mut sum)?;
        }
        Ok(sum.digest())
    }

    /// Reads a range of a file, which begins with a piece, and adds it to a checksum. Returns where
    /// the range or the file ends.
    fn add(&mut self, file: &File, range: Range<u64>, sum: &mut Sum) -> io::Result<u64> {
        let mut at = range.start;
        while at < range.end {
            let most = usize::try_from(range.end - at).map_or(BUFFER, |rest| rest.min(BUFFER));
            let read = fill(file, &mut self.buffer[..most], at)?;
            self.pace.count(read as u64);
            sum.add(&self.buffer[..read], at);
            at += read as u64;
            if read < most {
                break;
            }
        }
        Ok(at)
    }

    /// Reads a file to its end. Returns the checksum of all its bytes, with 1 in place of 0.
    fn of_all(&mut self, mut file: File) -> io::Result<u64> {
        let mut sum = Xxh3Default::new();
        loop {
            match file.read(&mut self.buffer) {
                Ok(0) => return Ok(sum.digest().max(1)),
                Ok(read) => {
                    sum.update(&self.buffer[..read]);
                    self.pace.count(read as u64);
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
}

/// The checksum of a file that is being read.
#[derive(Default)]
struct Sum {
    hash: Xxh3Default,
    /// The end of the last piece in the hash.
    end: u64,
}

impl Sum {
    /// Adds the bytes at `at`, except pieces that have only zeros.
    fn add(&mut self, bytes: &[u8], mut at: u64) {
        for piece in bytes.chunks(ZEROS.len()) {
            let end = at + piece.len() as u64;
            if *piece != ZEROS[..piece.len()] {
                if self.end != at {
                    self.hash.update(&at.to_le_bytes());
                }
                self.hash.update(piece);
                self.end = end;
            }
            at = end;
        }
    }

    fn digest(&self) -> u64 {
        self.hash.digest().max(1)
    }
}

/// Reads a range of a file, no faster than `pace` allows. Returns the checksum of the range, or 1
/// if the checksum is 0. The part of the range that is after the end of the file is ignored.
///
/// # Errors
/// Errors of the file system.
pub fn sum_of_range(file: &File, range: Range<u64>, pace: &mut Pace) -> io::Result<u64> {
    let mut sum = Xxh3Default::new();
    let mut buffer = vec![0; BUFFER.min((range.end - range.start) as usize)];
    let mut at = range.start;
    while at < range.end {
        let most = buffer.len().min((range.end - at) as usize);
        let read = fill(file, &mut buffer[..most], at)?;
        if read == 0 {
            break;
        }
        sum.update(&buffer[..read]);
        pace.count(read as u64);
        at += read as u64;
    }
    Ok(sum.digest().max(1))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::FileExt;

    use super::*;

    fn of(data: &[u8]) -> u64 {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("file");
        fs::write(&path, data).unwrap();
        Sums::new(None).of(File::open(path).unwrap()).unwrap()
    }

    /// The manifests of other releases contain such checksums.
    #[test]
    fn checksums_stay_what_they_are() {
        assert_eq!(of(b""), 0x2d06_8005_38d3_94c2);
        assert_eq!(of(b"root"), 0x0a5c_f7b9_9ae7_6577);
        assert_eq!(of(&[7; 300_003]), 0xe9cf_f0c2_8d57_0889);
    }

    #[test]
    fn a_hole_and_zeros_have_the_same_checksum_wherever_they_are() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("file");
        let length = 3 * BUFFER as u64 + 5;
        let sum = || Sums::new(None).of(File::open(&path).unwrap()).unwrap();
        let mut found = vec![of(b"")];
        for at in [0, 4095, 4096, 100_000, BUFFER as u64, length - 3] {
            let file = File::create(&path).unwrap();
            file.set_len(length).unwrap();
            file.write_all_at(b"abc", at).unwrap();
            let sparse = sum();
            fs::write(&path, fs::read(&path).unwrap()).unwrap();
            assert_eq!(sum(), sparse, "at {at}");
            assert!(!found.contains(&sparse), "at {at}");
            found.push(sparse);
        }
    }

    /// The manifests of earlier releases contain such checksums.
    #[test]
    fn a_checksum_with_zeros_is_of_all_bytes() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("file");
        File::create(&path).unwrap().set_len(300_003).unwrap();
        let file = || File::open(&path).unwrap();
        let all = Sums::new(None).with_zeros().of(file()).unwrap();
        let range = sum_of_range(&file(), 0..300_003, &mut Pace::new(None)).unwrap();
        assert_eq!(all, range);
        assert_ne!(all, Sums::new(None).of(file()).unwrap());
    }

    /// If the holes were read, the test would take minutes.
    #[test]
    fn holes_are_not_read() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("file");
        let file = File::create(&path).unwrap();
        file.set_len(1 << 42).unwrap();
        file.write_all_at(b"abc", 1 << 41).unwrap();
        let found = Sums::new(None).of(File::open(&path).unwrap()).unwrap();
        assert_ne!(found, of(b""));
    }

    #[test]
    fn a_range_has_the_checksum_of_a_file_with_its_bytes() {
        let temp = tempfile::tempdir().unwrap();
        let data: Vec<u8> = (0..2 * BUFFER + 50).map(|at| (at >> 3) as u8).collect();
        let path = temp.path().join("file");
        fs::write(&path, &data).unwrap();
        let file = File::open(path).unwrap();
        let length = data.len() as u64;
        for range in [0..length, 7..BUFFER as u64 + 9, 0..0, length - 3..length] {
            let own = &data[range.start as usize..range.end as usize];
            let found = sum_of_range(&file, range.clone(), &mut Pace::new(None)).unwrap();
            assert_eq!(found, of(own), "{range:?}");
        }
        let beyond = sum_of_range(&file, length - 3..length + 9, &mut Pace::new(None)).unwrap();
        assert_eq!(beyond, of(&data[data.len() - 3..]));
    }

    #[test]
    fn each_flipped_bit_is_seen() {
        let mut data: Vec<u8> = (0..BUFFER + 21).map(|number| (number * 7) as u8).collect();
        let right = of(&data);
        for at in (0..data.len())
            .step_by(9973)
            .chain(BUFFER + 10..BUFFER + 21)
        {
            data[at] ^= 1 << (at % 8);
            assert_ne!(of(&data), right, "byte {at}");
            data[at] ^= 1 << (at % 8);
        }
        data.push(0);
        assert_ne!(of(&data), right, "a zero at the end");
    }
}
