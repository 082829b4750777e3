//! File names of blobs.

use std::ffi::CStr;

use cas_core::{Algorithm, Digest};

/// The file name of a blob. It is not on the heap, because a pull makes a name for every blob.
pub(crate) struct BlobName {
    text: [u8; 129],
    length: usize,
}

impl BlobName {
    /// Returns the name of the file of `digest`.
    pub(crate) fn of(digest: &Digest) -> Self {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let mut text = [0; 129];
        let hash = digest.as_bytes();
        for (pair, byte) in text.chunks_exact_mut(2).zip(hash) {
            pair[0] = DIGITS[usize::from(byte >> 4)];
            pair[1] = DIGITS[usize::from(byte & 15)];
        }
        BlobName {
            text,
            length: 2 * hash.len(),
        }
    }

    /// Parses a file name. Returns the digest, or `None` if the name is not the name of a blob of
    /// `algorithm`.
    pub(crate) fn parse(algorithm: Algorithm, name: &str) -> Option<Digest> {
        let mut hash = [0; 64];
        let hash = hash.get_mut(..algorithm.size())?;
        if name.len() != 2 * hash.len() {
            return None;
        }
        for (byte, pair) in hash.iter_mut().zip(name.as_bytes().chunks_exact(2)) {
            *byte = digit(pair[0])? << 4 | digit(pair[1])?;
        }
        Digest::from_bytes(algorithm, hash)
    }

    /// Returns the name for a system call.
    pub(crate) fn as_c_str(&self) -> &CStr {
        CStr::from_bytes_with_nul(&self.text[..=self.length]).unwrap_or_default()
    }
}

/// Returns the value of a hexadecimal digit, or `None` for another character. Upper-case letters
/// are not digits, because other programs find blobs only under lower-case names.
fn digit(text: u8) -> Option<u8> {
    match text {
        b'0'..=b'9' => Some(text - b'0'),
        b'a'..=b'f' => Some(text - b'a' + 10),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_the_hexadecimal_of_the_digest() {
        for algorithm in Algorithm::ALL {
            let digest = Digest::of(algorithm, b"x");
            assert_eq!(
                BlobName::of(&digest).as_c_str().to_str(),
                Ok(&*digest.hex())
            );
            assert_eq!(BlobName::parse(algorithm, &digest.hex()), Some(digest));
            for other in [
                &*digest.hex().to_uppercase(),
                &digest.hex()[1..],
                "",
                "lock",
            ] {
                assert_eq!(BlobName::parse(algorithm, other), None);
            }
        }
    }
}
