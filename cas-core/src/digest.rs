//! Content digests: parsed once at the border, then a value that cannot be wrong.

use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher as StdHasher};
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::Digest as _;

use crate::error::{Error, Result};

/// A hash function that names content.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Algorithm {
    /// SHA-256, the canonical one.
    Sha256,
    /// SHA-512.
    Sha512,
}

impl Algorithm {
    /// All algorithms, in the order of their names.
    pub const ALL: [Algorithm; 2] = [Algorithm::Sha256, Algorithm::Sha512];

    /// The name as it stands before the colon.
    pub const fn name(self) -> &'static str {
        match self {
            Algorithm::Sha256 => "sha256",
            Algorithm::Sha512 => "sha512",
        }
    }

    /// Length of the hash, in bytes.
    pub const fn size(self) -> usize {
        match self {
            Algorithm::Sha256 => 32,
            Algorithm::Sha512 => 64,
        }
    }
}

const DIGITS: &[u8; 16] = b"0123456789abcdef";

/// Length of the longest text of a digest: that of SHA-512.
const TEXT: usize = 7 + 128;

/// `algorithm:hex`, as the OCI image specification writes it; ordered as its text is.
#[derive(Clone, Copy)]
pub struct Digest {
    algorithm: Algorithm,
    bytes: [u8; 64],
}

impl Digest {
    /// A digest from the raw hash, or nothing when its length is not the algorithm's.
    pub fn from_bytes(algorithm: Algorithm, hash: &[u8]) -> Option<Self> {
        if hash.len() != algorithm.size() {
            return None;
        }
        let mut bytes = [0; 64];
        bytes[..hash.len()].copy_from_slice(hash);
        Some(Digest { algorithm, bytes })
    }

    /// The digest of `data`.
    pub fn of(algorithm: Algorithm, data: &[u8]) -> Self {
        let mut hasher = Hasher::new(algorithm);
        hasher.update(data);
        hasher.finish()
    }

    /// The SHA-256 of `data`.
    pub fn sha256(data: &[u8]) -> Self {
        Self::of(Algorithm::Sha256, data)
    }

    /// The algorithm.
    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// The raw hash.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.algorithm.size()]
    }

    /// The hash in lower-case hexadecimal, without the algorithm.
    pub fn hex(&self) -> String {
        let mut buffer = [0; TEXT];
        self.text(&mut buffer)[self.algorithm.name().len() + 1..].to_owned()
    }

    /// The whole text, written into `buffer`.
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

    /// `algorithm:` and the first twelve digits, for tables.
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

    /// Accepts `sha256:` with 64 and `sha512:` with 128 lower-case hexadecimal digits, no more.
    fn from_str(text: &str) -> Result<Self> {
        let fail = |why: &str| {
            let shown: String = text.chars().take(150).collect();
            Err(Error::invalid(format!(
                "{shown:?} is no digest: {why}; expected sha256: and 64, or sha512: and 128 \
                 lower-case hexadecimal digits"
            )))
        };
        let Some((name, hex)) = text.split_once(':') else {
            return fail("it has no colon");
        };
        let Some(algorithm) = Algorithm::ALL
            .into_iter()
            .find(|known| known.name() == name)
        else {
            return fail("its algorithm is unknown");
        };
        if hex.len() != 2 * algorithm.size() {
            return fail("its length is wrong");
        }
        let mut bytes = [0; 64];
        let mut seen = 0;
        for (byte, pair) in bytes.iter_mut().zip(hex.as_bytes().chunks_exact(2)) {
            let (high, low) = (VALUES[usize::from(pair[0])], VALUES[usize::from(pair[1])]);
            *byte = high << 4 | low;
            seen |= high | low;
        }
        if seen >= NO_DIGIT {
            return fail("it has a character that is no lower-case hexadecimal digit");
        }
        Ok(Digest { algorithm, bytes })
    }
}

/// What stands for a character that is no digit.
const NO_DIGIT: u8 = 16;
/// The values of digits by their characters: a collection parses digests by the hundred thousand.
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

/// An incremental hash.
#[derive(Clone)]
pub struct Hasher(State);

#[derive(Clone)]
enum State {
    Sha256(sha2::Sha256),
    #[cfg(feature = "aws-lc")]
    AwsLc(aws_lc_rs::digest::Context),
    Sha512(sha2::Sha512),
}

impl Hasher {
    /// A fresh hash.
    pub fn new(algorithm: Algorithm) -> Self {
        Hasher(match algorithm {
            #[cfg(feature = "aws-lc")]
            Algorithm::Sha256 if !has_instructions() => {
                State::AwsLc(aws_lc_rs::digest::Context::new(&aws_lc_rs::digest::SHA256))
            }
            Algorithm::Sha256 => State::Sha256(sha2::Sha256::new()),
            Algorithm::Sha512 => State::Sha512(sha2::Sha512::new()),
        })
    }

    /// Adds `data`.
    pub fn update(&mut self, data: &[u8]) {
        match &mut self.0 {
            State::Sha256(hash) => hash.update(data),
            #[cfg(feature = "aws-lc")]
            State::AwsLc(hash) => hash.update(data),
            State::Sha512(hash) => hash.update(data),
        }
    }

    /// The digest of all that was added.
    pub fn finish(self) -> Digest {
        let mut bytes = [0; 64];
        let algorithm = match self.0 {
            State::Sha256(hash) => {
                bytes[..32].copy_from_slice(&hash.finalize());
                Algorithm::Sha256
            }
            #[cfg(feature = "aws-lc")]
            State::AwsLc(hash) => {
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

/// Whether the processor hashes by itself, where no library is faster than another. Without that
/// the one of AWS takes half the time of sha2: see `docs/decisions/0010`.
#[cfg(feature = "aws-lc")]
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

    #[test]
    fn text_and_back() {
        for algorithm in Algorithm::ALL {
            let digest = Digest::of(algorithm, b"abc");
            assert_eq!(digest.to_string().parse::<Digest>().unwrap(), digest);
        }
        assert_eq!(
            Digest::sha256(b"").to_string(),
            "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
        );
    }

    /// Whichever library this machine takes.
    #[test]
    fn pieces_of_any_length_hash_to_what_sha2_says() {
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

    #[test]
    fn order_is_that_of_the_text() {
        let mut digests: Vec<Digest> = (0u8..50)
            .flat_map(|n| Algorithm::ALL.map(|algorithm| Digest::of(algorithm, &[n])))
            .collect();
        digests.sort();
        assert!(digests.is_sorted_by_key(|digest| digest.to_string()));
    }

    #[test]
    fn refuses_what_is_no_digest() {
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
