//! Computing digests.

use std::fmt;

use sha2::Digest as _;

use super::{Algorithm, Digest};

impl Digest {
    /// Returns the digest of `data`.
    pub fn of(algorithm: Algorithm, data: &[u8]) -> Self {
        let mut hasher = Hasher::new(algorithm);
        hasher.update(data);
        hasher.finish()
    }

    /// Returns the SHA-256 digest of `data`.
    pub fn sha256(data: &[u8]) -> Self {
        Self::of(Algorithm::Sha256, data)
    }
}

/// A digest that is computed piece by piece.
#[derive(Clone)]
pub struct Hasher(State);

#[derive(Clone)]
enum State {
    Sha256(sha2::Sha256),
    #[cfg(feature = "ring")]
    Ring(ring::digest::Context),
    Sha512(sha2::Sha512),
}

impl Hasher {
    /// Returns a hasher to which no data was added.
    pub fn new(algorithm: Algorithm) -> Self {
        Hasher(match algorithm {
            #[cfg(feature = "ring")]
            Algorithm::Sha256 if !has_instructions() => {
                State::Ring(ring::digest::Context::new(&ring::digest::SHA256))
            }
            Algorithm::Sha256 => State::Sha256(sha2::Sha256::new()),
            Algorithm::Sha512 => State::Sha512(sha2::Sha512::new()),
        })
    }

    /// Adds `data`.
    pub fn update(&mut self, data: &[u8]) {
        match &mut self.0 {
            State::Sha256(hash) => hash.update(data),
            #[cfg(feature = "ring")]
            State::Ring(hash) => hash.update(data),
            State::Sha512(hash) => hash.update(data),
        }
    }

    /// Returns the digest of all the data that was added.
    pub fn finish(self) -> Digest {
        let mut bytes = [0; 64];
        let algorithm = match self.0 {
            State::Sha256(hash) => {
                bytes[..32].copy_from_slice(&hash.finalize());
                Algorithm::Sha256
            }
            #[cfg(feature = "ring")]
            State::Ring(hash) => {
                bytes[..32].copy_from_slice(hash.finish().as_ref());
                Algorithm::Sha256
            }
            State::Sha512(hash) => {
                bytes.copy_from_slice(&hash.finalize());
                Algorithm::Sha512
            }
        };
        Digest { algorithm, bytes }
    }
}

/// Returns whether the processor has instructions for SHA-256. Processors other than x86-64 are
/// assumed to have them. With these instructions, all libraries are equally fast. Without them,
/// ring takes about half the time of sha2; see `docs/decisions/0010`.
#[cfg(feature = "ring")]
fn has_instructions() -> bool {
    #[cfg(target_arch = "x86_64")]
    return std::arch::is_x86_feature_detected!("sha");
    #[cfg(not(target_arch = "x86_64"))]
    return true;
}

impl fmt::Debug for Hasher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Hasher")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Tests the library that is chosen on this machine.
    #[test]
    fn pieces_of_any_length_have_the_digest_that_sha2_computes() {
        let data: Vec<u8> = (0..70_000u32).map(|at| (at % 251) as u8).collect();
        for (length, piece) in [(0, 1), (1, 1), (63, 7), (64, 64), (65, 13), (70_000, 4_097)] {
            let mut hash = Hasher::new(Algorithm::Sha256);
            for part in data[..length].chunks(piece) {
                hash.update(part);
            }
            let expected = sha2::Sha256::digest(&data[..length]);
            let expected = Digest::from_bytes(Algorithm::Sha256, &expected);
            assert_eq!(Some(hash.clone().finish()), expected, "{length}");
            assert_eq!(Some(hash.finish()), expected, "{length}, of a copy");
        }
    }
}
