//! Reading an open file without changing its position.

use std::fs::File;
use std::io;

use cas_core::{Algorithm, Digest, Hasher};

use crate::{Pace, calls};

/// Size in bytes of the buffer that whole files are read into.
const BUFFER: usize = 256 << 10;

/// Reads a file from `offset` until the buffer is full or the file ends. Returns the number of
/// bytes that were read.
///
/// # Errors
/// Errors of the file system.
pub fn fill(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match calls::pread(file, &mut buffer[filled..], offset + filled as u64)? {
            0 => break,
            more => filled += more,
        }
    }
    Ok(filled)
}

/// Reads a file from its beginning to its end, no faster than `pace` allows. Returns its digest.
///
/// # Errors
/// Errors of the file system.
pub fn digest_of(file: &File, algorithm: Algorithm, pace: &mut Pace) -> io::Result<Digest> {
    let (mut hasher, mut buffer) = (Hasher::new(algorithm), vec![0; BUFFER]);
    let mut offset = 0;
    loop {
        match calls::pread(file, &mut buffer, offset)? {
            0 => return Ok(hasher.finish()),
            read => {
                hasher.update(&buffer[..read]);
                offset += read as u64;
                pace.count(read as u64);
            }
        }
    }
}
