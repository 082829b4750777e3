//! Prefixes of digests.

use std::str::FromStr;

use super::{Algorithm, Digest};
use crate::error::{Error, Result, excerpt};

/// A digest, or its first digits: `sha256:2c26`, `2c26b46b68ff`. Without an algorithm, digests of
/// all algorithms can match.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DigestPrefix {
    algorithm: Option<Algorithm>,
    hex: String,
}

impl DigestPrefix {
    /// Returns whether `digest` begins with this prefix.
    pub fn matches(&self, digest: &Digest) -> bool {
        self.algorithm
            .is_none_or(|algorithm| algorithm == digest.algorithm())
            && digest.hex().starts_with(&self.hex)
    }

    /// Returns the algorithm, if there is one.
    pub fn algorithm(&self) -> Option<Algorithm> {
        self.algorithm
    }

    /// Returns the digits.
    pub fn hex(&self) -> &str {
        &self.hex
    }

    /// Returns the prefix as text: with its own algorithm or, if it has none, once with each
    /// algorithm.
    pub fn texts(&self) -> Vec<String> {
        let texts = self.algorithms();
        texts
            .map(|one| format!("{}:{}", one.name(), self.hex))
            .collect()
    }

    /// Returns the lowest digest that begins with this prefix, for each algorithm that a matching
    /// digest can have.
    pub fn first(&self) -> Vec<Digest> {
        let padded = self.algorithms().map(|one| {
            let width = 2 * one.size();
            format!("{}:{:0<width$}", one.name(), self.hex)
        });
        padded.filter_map(|text| text.parse().ok()).collect()
    }

    fn algorithms(&self) -> impl Iterator<Item = Algorithm> {
        let algorithms = Algorithm::ALL.into_iter();
        algorithms.filter(|one| self.algorithm.is_none_or(|own| own == *one))
    }
}

impl From<Digest> for DigestPrefix {
    fn from(digest: Digest) -> Self {
        DigestPrefix {
            algorithm: Some(digest.algorithm()),
            hex: digest.hex(),
        }
    }
}

impl FromStr for DigestPrefix {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let (algorithm, hex) = match text.split_once(':') {
            Some((name, hex)) => {
                let algorithm = Algorithm::ALL.into_iter().find(|one| one.name() == name);
                (Some(algorithm.ok_or_else(|| refused(text))?), hex)
            }
            None => (None, text),
        };
        let longest = algorithm.map_or(2 * Algorithm::Sha512.size(), |one| 2 * one.size());
        let is_digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        if hex.is_empty() || hex.len() > longest || !hex.bytes().all(is_digit) {
            return Err(refused(text));
        }
        let hex = hex.to_owned();
        Ok(DigestPrefix { algorithm, hex })
    }
}

fn refused(text: &str) -> Error {
    Error::invalid(
        "not a digest: expected all or the first digits of a digest in lower-case hexadecimal, \
         with or without `sha256:` or `sha512:` before the digits",
    )
    .operation("parse digest")
    .subject(excerpt(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_find_the_digests_that_begin_with_them() {
        let (short, long) = (Digest::sha256(b"x"), Digest::of(Algorithm::Sha512, b"x"));
        for (text, digests) in [
            (short.to_string(), (true, false)),
            (short.short(), (true, false)),
            (short.hex()[..1].to_owned(), (true, false)),
            (long.hex(), (false, true)),
            (format!("sha256:{}", &long.hex()[..4]), (false, false)),
        ] {
            let prefix: DigestPrefix = text.parse().unwrap();
            let found = (prefix.matches(&short), prefix.matches(&long));
            assert_eq!(found, digests, "{text}");
            for first in prefix.first() {
                assert!(prefix.matches(&first), "{text}: {first}");
            }
        }
        assert_eq!("ab".parse::<DigestPrefix>().unwrap().first().len(), 2);
        let texts = |text: &str| text.parse::<DigestPrefix>().unwrap().texts();
        assert_eq!(texts("ab"), ["sha256:ab", "sha512:ab"]);
        assert_eq!(texts("sha512:ab"), ["sha512:ab"]);
        assert_eq!(DigestPrefix::from(short).texts(), [short.to_string()]);
        for bad in [
            "",
            "sha256:",
            "AB",
            "xyz",
            "md5:ab",
            "sha256:g",
            "ab cd",
            &"a".repeat(129),
        ] {
            assert!(bad.parse::<DigestPrefix>().is_err(), "{bad}");
        }
    }
}
