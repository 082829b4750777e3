//! Owners: tenants that share a store.
//!
//! The name of an image has one owner or none, and is unique in a store. A blob can have several
//! owners. For each of its owners, the record of a blob has an entry that is called a claim.
//! [`Store::for_owner`](crate::Store::for_owner) opens a store for one owner. A store that is
//! opened in this way lists only the names of the owner. Each blob that is stored or pinned through
//! this store gets a claim of the owner.
//!
//! A claim keeps a blob. A garbage collection for an owner drops the owner's claim on a blob if
//! none of these reaches the blob: the names of the owner, leases, labels, and content that was
//! stored without a lease in the last day. The collection then also removes the blob if no other
//! owner claims it, and no image reaches it.
//!
//! Through a store that is not opened for an owner, every name can be changed. A collection that is
//! not for an owner removes only blobs without a claim.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize};

use crate::error::{Error, Result, excerpt};
use crate::limit;

/// The name of an owner: 1 to [`limit::OWNER`] ASCII letters, digits, `-`, `_` and `.`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct Owner(String);

impl Owner {
    /// Returns the text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl FromStr for Owner {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        if text.is_empty() || text.len() > limit::OWNER || !text.bytes().all(allowed) {
            return Err(Error::invalid(format!(
                "invalid owner: expected 1 to {} ASCII letters, digits, - _ or .",
                limit::OWNER
            ))
            .operation("parse owner")
            .subject(excerpt(text)));
        }
        Ok(Owner(text.to_owned()))
    }
}

impl<'de> Deserialize<'de> for Owner {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    #[test]
    fn owners_are_short_and_plain() {
        let longest = "a".repeat(limit::OWNER);
        for good in ["a", "A-b_c.9", "...", &longest] {
            assert_eq!(good.parse::<Owner>().unwrap().as_str(), good);
        }
        let longer = "a".repeat(limit::OWNER + 1);
        for bad in ["", "a b", "a/b", "a:b", "\u{e4}", "a\n", &longer] {
            let error = bad.parse::<Owner>().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{bad:?}");
            assert!(error.to_string().contains("letters, digits, - _ or ."));
        }
        assert!(serde_json::from_str::<Owner>(r#""a b""#).is_err());
    }
}
