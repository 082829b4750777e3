//! Digests as keys of a table.

use cas_core::{Algorithm, Digest};

/// The key of a blob: one byte for the algorithm, then the hash. Keys sort like digests.
#[derive(Clone, Copy, Debug)]
pub struct Key {
    bytes: [u8; 65],
    length: usize,
}

impl Key {
    /// Returns the key of `digest`.
    pub fn of(digest: &Digest) -> Self {
        let hash = digest.as_bytes();
        let mut bytes = [0; 65];
        bytes[0] = match digest.algorithm() {
            Algorithm::Sha256 => 1,
            Algorithm::Sha512 => 2,
        };
        bytes[1..=hash.len()].copy_from_slice(hash);
        Key {
            bytes,
            length: 1 + hash.len(),
        }
    }

    /// Returns the bytes of the key: 33 for SHA-256, 65 for SHA-512.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }

    /// Returns the digest of a key, or `None` if `key` is not the key of a digest.
    pub fn digest(key: &[u8]) -> Option<Digest> {
        let (algorithm, hash) = key.split_first()?;
        let algorithm = match algorithm {
            1 => Algorithm::Sha256,
            2 => Algorithm::Sha512,
            _ => return None,
        };
        Digest::from_bytes(algorithm, hash)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_sort_like_digests_and_decode_to_them() {
        let mut digests: Vec<Digest> = (0..50_u8)
            .flat_map(|n| Algorithm::ALL.map(|algorithm| Digest::of(algorithm, &[n])))
            .collect();
        digests.sort();
        let keys: Vec<Key> = digests.iter().map(Key::of).collect();
        assert!(keys.is_sorted_by_key(Key::bytes));
        let decoded = keys.iter().map(|key| Key::digest(key.bytes()));
        assert!(decoded.eq(digests.into_iter().map(Some)));
        assert_eq!(Key::digest(b""), None);
        assert_eq!(Key::digest(b"\x01short"), None);
    }
}
