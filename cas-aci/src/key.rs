//! Keys: image IDs of ACIs, whole or in part.

use std::fmt;
use std::str::FromStr;

use cas_core::error::excerpt;
use cas_core::{Algorithm, Digest, Error, Hasher, Result};
use serde::{Deserialize, Serialize};

/// The beginning of each key.
const ALGORITHM: &str = "sha512-";
/// Number of digits of a whole key.
pub(crate) const DIGITS: usize = 128;
/// Number of digits of a key of rkt, which keeps the first half of the hash.
pub(crate) const HALF: usize = 64;
/// Minimum number of digits of a prefix.
const SHORTEST: usize = 2;

/// The key of an ACI: the SHA-512 digest of its uncompressed archive. It is written as `sha512-`
/// and 128 hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Key(Digest);

impl Key {
    /// Returns the key for the digest of an uncompressed archive.
    ///
    /// # Errors
    /// `InvalidArgument` if the digest is not a SHA-512 digest.
    pub fn new(digest: Digest) -> Result<Self> {
        if digest.algorithm() == Algorithm::Sha512 {
            return Ok(Key(digest));
        }
        let found = digest.algorithm().name();
        Err(Error::invalid(format!(
            "expected a sha512 digest, found {found}; hash the archive with SHA-512"
        ))
        .subject(digest))
    }

    /// Returns the digest of the uncompressed archive.
    pub fn digest(&self) -> &Digest {
        &self.0
    }

    /// Returns all 128 digits.
    pub fn hex(&self) -> String {
        self.0.hex()
    }

    /// Returns the key as rkt writes it: `sha512-` and the first 64 digits.
    pub fn half(&self) -> String {
        format!("{ALGORITHM}{}", &self.hex()[..HALF])
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{ALGORITHM}{}", self.hex())
    }
}

impl FromStr for Key {
    type Err = Error;

    /// Parses a whole key. A prefix of a key is an error.
    fn from_str(text: &str) -> Result<Self> {
        let prefix: KeyPrefix = text.parse()?;
        let digest = format!("{}:{}", Algorithm::Sha512.name(), prefix.hex);
        digest.parse().map(Key).map_err(|_| {
            let found = prefix.hex.len();
            Error::invalid(format!(
                "expected a key of {DIGITS} digits, found {found}; give all digits"
            ))
            .operation("parse key")
            .subject(text)
        })
    }
}

impl TryFrom<String> for Key {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<Key> for String {
    fn from(key: Key) -> Self {
        key.to_string()
    }
}

/// A key or its first digits, at least two, such as `sha512-0c45e8c0ab2`.
/// [`matches`](Self::matches) compares all digits, including those after the 64th, which rkt leaves
/// out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyPrefix {
    hex: String,
}

impl KeyPrefix {
    /// Returns whether `key` begins with this prefix.
    pub fn matches(&self, key: &Key) -> bool {
        key.hex().starts_with(&self.hex)
    }

    /// Returns the digits.
    pub fn hex(&self) -> &str {
        &self.hex
    }
}

impl fmt::Display for KeyPrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{ALGORITHM}{}", self.hex)
    }
}

impl FromStr for KeyPrefix {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let is_digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        match text.strip_prefix(ALGORITHM) {
            Some(hex) if (SHORTEST..=DIGITS).contains(&hex.len()) && hex.bytes().all(is_digit) => {
                Ok(KeyPrefix {
                    hex: hex.to_owned(),
                })
            }
            _ => Err(Error::invalid(format!(
                "not a key: expected {ALGORITHM} followed by {SHORTEST} to {DIGITS} lower-case \
                 hexadecimal digits; `cas aci ls` lists the keys of stored ACIs"
            ))
            .operation("parse key")
            .subject(excerpt(text))),
        }
    }
}

/// Returns the key of the archive that was added to `hasher`.
///
/// # Errors
/// `InvalidArgument` if the hasher computes another hash than SHA-512.
pub fn hash_to_key(hasher: Hasher) -> Result<Key> {
    Key::new(hasher.finish())
}

#[cfg(test)]
mod tests {
    use cas_core::ErrorKind;

    use super::*;

    fn key() -> Key {
        Key::new(Digest::of(Algorithm::Sha512, b"abc")).unwrap()
    }

    #[test]
    fn a_key_is_the_sha_512_of_what_was_hashed() {
        let mut hasher = Hasher::new(Algorithm::Sha512);
        hasher.update(b"ab");
        hasher.update(b"c");
        let hashed = hash_to_key(hasher).unwrap();
        assert_eq!(hashed, key());
        let whole = "sha512-ddaf35a193617abacc417349ae20413112e6fa4e89a97ea20a9eeee64b55d39a\
                     2192992a274fc1a836ba3c23a3feebbd454d4423643ce80e2a9ac94fa54ca49f";
        assert_eq!(hashed.to_string(), whole);
        assert_eq!(hashed.half(), whole[..71]);
        assert_eq!(whole.parse::<Key>().unwrap(), hashed);
        let wrong = hash_to_key(Hasher::new(Algorithm::Sha256)).unwrap_err();
        assert_eq!(wrong.kind(), ErrorKind::InvalidArgument);
    }

    #[test]
    fn a_prefix_has_2_to_128_digits_and_all_of_them_count() {
        let whole = key().to_string();
        for digits in [2, 64, 65, 128] {
            let prefix: KeyPrefix = whole[..7 + digits].parse().unwrap();
            assert!(prefix.matches(&key()), "{digits}");
            assert_eq!(prefix.to_string(), whole[..7 + digits]);
        }
        let wrong = format!("{}0", &whole[..134]);
        assert!(!wrong.parse::<KeyPrefix>().unwrap().matches(&key()));
        let longer = format!("{whole}0");
        for bad in [
            "",
            "sha512-",
            "sha512-d",
            "ddaf",
            "sha256-dd",
            "sha512-DD",
            "sha512-zz",
            "sha512:dd",
            "sha512-../..",
            &longer,
        ] {
            let error = bad.parse::<KeyPrefix>().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{bad}");
        }
        assert!(key().half().parse::<Key>().is_err());
    }
}
