//! Digests as keys.

use cas_core::{Algorithm, Digest};

/// The key of a blob: its algorithm, then its hash, so that keys sort as digests do.
#[derive(Clone, Copy, Debug)]
pub struct Key {
    bytes: [u8; 65],
    length: usize,
}

impl Key {
    /// The key of `digest`.
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

    /// The key as an engine takes it: 33 or 65 bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }

    /// The digest of a key; nothing when it is none.
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
    fn keys_sort_as_digests_do_and_come_back() {
        let mut digests: Vec<Digest> = (0..50_u8)
            .flat_map(|n| Algorithm::ALL.map(|algorithm| Digest::of(algorithm, &[n])))
            .collect();
        digests.sort();
        let keys: Vec<Key> = digests.iter().map(Key::of).collect();
        assert!(keys.is_sorted_by_key(Key::bytes));
        let back = keys.iter().map(|key| Key::digest(key.bytes()));
        assert!(back.eq(digests.into_iter().map(Some)));
        assert_eq!(Key::digest(b""), None);
        assert_eq!(Key::digest(b"\x01short"), None);
    }
}
