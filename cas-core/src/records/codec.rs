//! Records as bytes: a JSON object whose last member is a checksum of the bytes before it. Records
//! decide what a garbage collection removes, and not every engine notices that a bit has changed.

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::Record;
use crate::digest::Digest;
use crate::error::{Error, Result, malformed};

/// What is before the checksum.
const BEFORE: &[u8] = b",\"sum\":\"";
/// What is after the checksum.
const AFTER: &[u8] = b"\"}";
/// Number of hexadecimal digits of the checksum.
const DIGITS: usize = 16;

/// Returns a record as bytes. The record must be an object with at least one member. `what` names
/// it in messages, such as `a lease`.
///
/// # Errors
/// `Internal` if the record cannot be serialized.
pub(crate) fn encode(record: &impl Serialize, what: &str) -> Result<Bytes> {
    let mut bytes = serde_json::to_vec(record).map_err(|error| {
        let message = format!("{what} could not be serialized; please report it");
        Error::internal(message).source(error)
    })?;
    // The end of the object.
    bytes.pop();
    let sum = checksum(&bytes);
    bytes.extend([BEFORE, sum.as_bytes(), AFTER].concat());
    Ok(bytes.into())
}

/// Returns the content of a record. Records of earlier releases have no checksum, and are accepted.
/// `operation` describes the read in messages, such as `read lease`.
///
/// # Errors
/// `Corrupt` if the record has a wrong checksum or does not parse.
pub(crate) fn decode<T: DeserializeOwned>(record: &Record, operation: &'static str) -> Result<T> {
    let parsed = match is_intact(&record.value) {
        true => serde_json::from_slice(&record.value)
            .map_err(|error| malformed("the record does not parse", &error)),
        false => Err(
            Error::corrupt("the record was changed: its checksum is wrong")
                .advice("run `cas fsck --repair`"),
        ),
    };
    parsed.map_err(|error| error.operation(operation).subject(&record.key))
}

/// Returns false if a record has a checksum that is wrong.
fn is_intact(value: &[u8]) -> bool {
    let stated = value.strip_suffix(AFTER).and_then(|rest| {
        let (rest, sum) = rest.split_at_checked(rest.len().checked_sub(DIGITS)?)?;
        Some((rest.strip_suffix(BEFORE)?, sum))
    });
    stated.is_none_or(|(before, sum)| checksum(before).as_bytes() == sum)
}

/// Returns the first digits of the SHA-256 of `bytes`.
fn checksum(bytes: &[u8]) -> String {
    let digest = Digest::sha256(bytes);
    digest.hex().chars().take(DIGITS).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may fail anywhere")]

    use std::collections::BTreeMap;

    use super::*;
    use crate::error::ErrorKind;
    use crate::records::Revision;

    type Map = BTreeMap<String, String>;

    fn read(value: impl Into<Bytes>) -> Result<Map> {
        let record = Record {
            key: "a".into(),
            value: value.into(),
            revision: Revision::new("1"),
        };
        decode(&record, "read test")
    }

    #[test]
    fn no_changed_bit_is_read() {
        let map = Map::from([("key".to_owned(), "a value".to_owned())]);
        let stored = encode(&map, "a test").unwrap();
        assert_eq!(read(stored.clone()).unwrap()["key"], "a value");
        let end = stored.len() - BEFORE.len() - DIGITS - AFTER.len();
        for bit in 0..end * 8 {
            let mut changed = stored.to_vec();
            changed[bit / 8] ^= 1 << (bit % 8);
            let error = read(changed).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Corrupt, "{bit}: {error}");
        }
        for bit in end * 8..stored.len() * 8 {
            let mut changed = stored.to_vec();
            changed[bit / 8] ^= 1 << (bit % 8);
            // Without its name, the checksum is a member that is not read.
            if let Ok(map) = read(changed) {
                assert_eq!(map["key"], "a value", "{bit}");
            }
        }
    }

    #[test]
    fn a_record_of_an_earlier_release_is_read() {
        assert_eq!(read("{\"key\":\"old\"}").unwrap()["key"], "old");
        assert_eq!(read("{\"sum\":\"0123456789abcdef\"}").unwrap().len(), 1);
        for broken in ["", "}", "\"}", "{"] {
            assert_eq!(read(broken).unwrap_err().kind(), ErrorKind::Corrupt);
        }
    }
}
