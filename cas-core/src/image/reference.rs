//! Names of images, in the grammar that OCI gives to `org.opencontainers.image.ref.name`.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize};

use crate::error::{Error, Result, excerpt};
use crate::limit;

/// The name of an image: components joined by `/`. A component consists of letters and digits,
/// separated by one of `- . _ : @ +` or by `--`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct Reference(String);

impl Reference {
    /// Returns the text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl FromStr for Reference {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        if text.len() > limit::NAME || !text.split('/').all(is_component) {
            return Err(Error::invalid(format!(
                "invalid image name: expected at most {} bytes, letters and digits separated by \
                 one of - . _ : @ + / or --",
                limit::NAME
            ))
            .operation("parse name")
            .subject(excerpt(text)));
        }
        Ok(Reference(text.to_owned()))
    }
}

fn is_component(component: &str) -> bool {
    let bytes = component.as_bytes();
    let ends_well = bytes.first().is_some_and(u8::is_ascii_alphanumeric)
        && bytes.last().is_some_and(u8::is_ascii_alphanumeric);
    let separator = |run: &[u8]| matches!(run, [b'-' | b'.' | b'_' | b':' | b'@' | b'+'] | b"--");
    ends_well
        && bytes
            .split(u8::is_ascii_alphanumeric)
            .all(|run| run.is_empty() || separator(run))
}

impl<'de> Deserialize<'de> for Reference {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_accepted_and_refused_as_the_grammar_says() {
        for good in [
            "a",
            "a-b",
            "a--b",
            "a:b",
            "a/b",
            "a@b",
            "a+b",
            "x.io/y/z:1.2@sha256:ab",
        ] {
            assert!(good.parse::<Reference>().is_ok(), "{good}");
        }
        for bad in [
            "", "-a", "a_", "a..b", "a---b", "ä", "a//b", "/a", "a/", "../x", "a b", "a\n",
        ] {
            assert!(bad.parse::<Reference>().is_err(), "{bad}");
        }
        assert!("a".repeat(limit::NAME + 1).parse::<Reference>().is_err());
    }
}
