//! Content digests. A digest is checked when it is parsed, so a [`Digest`] is always valid.

mod hasher;
mod prefix;

use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher as StdHasher};
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

pub use hasher::Hasher;
pub use prefix::DigestPrefix;

use crate::error::{Error, Result, beginning};

/// A hash function whose digests name content.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Algorithm {
    /// SHA-256, which is used if no expected digest states another algorithm.
    Sha256,
    /// SHA-512.
    Sha512,
}

impl Algorithm {
    /// Every algorithm, in the order of their names.
    pub const ALL: [Algorithm; 2] = [Algorithm::Sha256, Algorithm::Sha512];

    /// Returns the name of the algorithm in the text of a digest: `sha256` or `sha512`.
    pub const fn name(self) -> &'static str {
        match self {
            Algorithm::Sha256 => "sha256",
            Algorithm::Sha512 => "sha512",
        }
    }

    /// Returns the length of the hash in bytes.
    pub const fn size(self) -> usize {
        match self {
            Algorithm::Sha256 => 32,
            Algorithm::Sha512 => 64,
        }
    }
}

const DIGITS: &[u8; 16] = b"0123456789abcdef";

/// Length in bytes of the text of a SHA-512 digest, which is the longest.
const TEXT: usize = 7 + 128;

/// A digest, written `algorithm:hex` as in the OCI image specification. Digests are ordered by
/// their texts, byte by byte.
#[derive(Clone, Copy)]
pub struct Digest {
    algorithm: Algorithm,
    bytes: [u8; 64],
}

impl Digest {
    /// Returns the digest whose raw hash is `hash`, or `None` if `hash` does not have the length
    /// that the algorithm requires.
    pub fn from_bytes(algorithm: Algorithm, hash: &[u8]) -> Option<Self> {
        if hash.len() != algorithm.size() {
            return None;
        }
        let mut bytes = [0; 64];
        bytes[..hash.len()].copy_from_slice(hash);
        Some(Digest { algorithm, bytes })
    }

    /// Parses a digest whose algorithm may be left out, and returns the digest. Without an
    /// algorithm, 64 digits are a SHA-256 digest, and 128 digits are a SHA-512 digest.
    ///
    /// # Errors
    /// `InvalidArgument` for any other text.
    pub fn from_text_or_hex(text: &str) -> Result<Self> {
        let has_length = |one: &Algorithm| text.len() == 2 * one.size();
        match Algorithm::ALL.into_iter().find(has_length) {
            Some(algorithm) if !text.contains(':') => {
                let whole = format!("{}:{text}", algorithm.name());
                whole.parse().map_err(|_: Error| {
                    Error::invalid(format!(
                        "not a digest: {text:?} has a character other than a lower-case \
                         hexadecimal digit"
                    ))
                })
            }
            _ => text.parse(),
        }
    }

    /// Returns the algorithm.
    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// Returns the raw hash.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.algorithm.size()]
    }

    /// Returns the hash in lower-case hexadecimal, without the algorithm.
    pub fn hex(&self) -> String {
        let mut buffer = [0; TEXT];
        self.text(&mut buffer)[self.algorithm.name().len() + 1..].to_owned()
    }

    /// Writes the whole text into `buffer`. Returns the text.
    fn text<'a>(&self, buffer: &'a mut [u8; TEXT]) -> &'a str {
        let name = self.algorithm.name();
        buffer[..name.len()].copy_from_slice(name.as_bytes());
        buffer[name.len()] = b':';
        let hex = &mut buffer[name.len() + 1..];
        for (pair, byte) in hex.chunks_exact_mut(2).zip(self.as_bytes()) {
            pair[0] = DIGITS[usize::from(byte >> 4)];
            pair[1] = DIGITS[usize::from(byte & 15)];
        }
        let length = name.len() + 1 + 2 * self.algorithm.size();
        str::from_utf8(&buffer[..length]).unwrap_or_default()
    }

    /// Returns `algorithm:` and the first twelve digits, for tables.
    pub fn short(&self) -> String {
        format!("{}:{}", self.algorithm.name(), &self.hex()[..12])
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.text(&mut [0; TEXT]))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Digest {
    type Err = Error;

    /// Accepts `sha256:` with 64 and `sha512:` with 128 lower-case hexadecimal digits, nothing
    /// else.
    fn from_str(text: &str) -> Result<Self> {
        let fail = |why: &str| {
            let shown = beginning(text, 150);
            Err(Error::invalid(format!(
                "not a digest: \"{shown}\" {why}; expected `sha256:` and 64 lower-case \
                 hexadecimal digits, or `sha512:` and 128 digits"
            )))
        };
        let Some((name, hex)) = text.split_once(':') else {
            return fail("has no colon");
        };
        let Some(algorithm) = Algorithm::ALL
            .into_iter()
            .find(|known| known.name() == name)
        else {
            return fail("has an unknown algorithm");
        };
        if hex.len() != 2 * algorithm.size() {
            return fail("has the wrong length");
        }
        let mut bytes = [0; 64];
        let mut seen = 0;
        for (byte, pair) in bytes.iter_mut().zip(hex.as_bytes().chunks_exact(2)) {
            let (high, low) = (VALUES[usize::from(pair[0])], VALUES[usize::from(pair[1])]);
            *byte = high << 4 | low;
            seen |= high | low;
        }
        if seen >= NO_DIGIT {
            return fail("has a character other than a lower-case hexadecimal digit");
        }
        Ok(Digest { algorithm, bytes })
    }
}

/// The value of a character that is not a digit.
const NO_DIGIT: u8 = 16;
/// The value of each character as a digit. A collection parses hundreds of thousands of digests,
/// and a table is fast.
const VALUES: [u8; 256] = {
    let mut values = [NO_DIGIT; 256];
    let mut value = 0;
    while value < NO_DIGIT {
        values[DIGITS[value as usize] as usize] = value;
        value += 1;
    }
    values
};

impl PartialEq for Digest {
    fn eq(&self, other: &Self) -> bool {
        self.algorithm == other.algorithm && self.as_bytes() == other.as_bytes()
    }
}

impl Eq for Digest {}

impl Hash for Digest {
    fn hash<H: StdHasher>(&self, state: &mut H) {
        state.write(self.as_bytes());
    }
}

impl PartialOrd for Digest {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Digest {
    fn cmp(&self, other: &Self) -> Ordering {
        (self.algorithm, self.as_bytes()).cmp(&(other.algorithm, other.as_bytes()))
    }
}

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        serializer.serialize_str(self.text(&mut [0; TEXT]))
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_is_printed_as_it_was_parsed() {
        for algorithm in Algorithm::ALL {
            let digest = Digest::of(algorithm, b"abc");
            assert_eq!(digest.to_string().parse::<Digest>().unwrap(), digest);
        }
        assert_eq!(
            Digest::sha256(b"").to_string(),
            "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
        );
    }

    #[test]
    fn a_digest_may_be_written_without_its_algorithm() {
        for algorithm in Algorithm::ALL {
            let digest = Digest::of(algorithm, b"abc");
            for text in [digest.to_string(), digest.hex()] {
                assert_eq!(Digest::from_text_or_hex(&text).unwrap(), digest);
            }
        }
        let hex = Digest::sha256(b"x").hex();
        let bad = [
            String::new(),
            "sha256:".to_owned(),
            hex[1..].to_owned(),
            hex.to_uppercase(),
            format!("sha512:{hex}"),
            format!("sha256:sha256:{hex}"),
            format!("{}/../../x", "0".repeat(56)),
            "é".repeat(32),
            format!("sha256:{}", &hex[..57]),
        ];
        for text in bad {
            let error = Digest::from_text_or_hex(&text).unwrap_err();
            assert_eq!(
                error.kind(),
                crate::error::ErrorKind::InvalidArgument,
                "{text}"
            );
        }
    }

    #[test]
    fn digests_are_ordered_as_their_text() {
        let mut digests: Vec<Digest> = (0u8..50)
            .flat_map(|n| Algorithm::ALL.map(|algorithm| Digest::of(algorithm, &[n])))
            .collect();
        digests.sort();
        assert!(digests.is_sorted_by_key(|digest| digest.to_string()));
    }

    #[test]
    fn invalid_digests_are_refused() {
        let good = Digest::sha256(b"x").to_string();
        let bad = [
            "".to_owned(),
            "sha256".to_owned(),
            "sha256:".to_owned(),
            "sha512:".to_owned(),
            "sha256:../../x".to_owned(),
            good.to_uppercase(),
            good.replace("sha256", "SHA256"),
            good.replace("sha256", "md5"),
            format!("{good}\n"),
            format!(" {good}"),
            good[..70].to_owned(),
            format!("sha256:{}", "é".repeat(32)),
            "x".repeat(10 << 20),
        ];
        for text in bad {
            let error = text.parse::<Digest>().unwrap_err();
            assert_eq!(error.kind(), crate::error::ErrorKind::InvalidArgument);
            assert!(error.to_string().len() < 1000);
        }
    }
}
