//! Records as bytes: a JSON object that ends with two checksums. The member `place` has the
//! checksum of the table and the key of the record. The last member, `sum`, has the checksum of the
//! bytes before it. Records decide what a garbage collection removes, and not every engine notices
//! that a bit has changed, or that a record was written over another one.

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{Record, Table};
use crate::digest::Digest;
use crate::error::{Error, Result, malformed};

/// What is before the checksum of the table and the key.
const PLACE: &[u8] = b",\"place\":\"";
/// What is before the checksum of the bytes.
const SUM: &[u8] = b",\"sum\":\"";
/// What is after each checksum.
const QUOTE: &[u8] = b"\"";
/// The end of the object.
const END: &[u8] = b"}";
/// Number of hexadecimal digits of a checksum.
const DIGITS: usize = 16;

/// Returns a record as bytes that can be read only under this key of this table. The record must be
/// an object with at least one member.
///
/// # Errors
/// `Internal` if the record cannot be serialized.
pub(crate) fn encode(table: Table, key: &str, record: &impl Serialize) -> Result<Bytes> {
    let mut bytes = serde_json::to_vec(record).map_err(|error| {
        Error::internal("the record could not be serialized; please report it")
            .subject(key)
            .source(error)
    })?;
    // The end of the object.
    bytes.pop();
    bytes.extend([PLACE, place(table, key).as_bytes(), QUOTE].concat());
    let sum = checksum(&bytes);
    bytes.extend([SUM, sum.as_bytes(), QUOTE, END].concat());
    Ok(bytes.into())
}

/// Returns the content of a record. Records of earlier releases lack the checksum of the key, or
/// both checksums, and are accepted. `operation` describes the read in messages, such as `read
/// lease`.
///
/// # Errors
/// `Corrupt` if a checksum of the record is wrong, or if the record does not parse.
pub(crate) fn decode<T: DeserializeOwned>(
    table: Table,
    record: &Record,
    operation: &'static str,
) -> Result<T> {
    let parsed = if !is_intact(&record.value) {
        Err(Error::corrupt(
            "the record was changed: its checksum is wrong",
        ))
    } else if !is_in_place(table, record) {
        Err(Error::corrupt("the record was written for another key"))
    } else {
        serde_json::from_slice(&record.value)
            .map_err(|error| malformed("the record does not parse", &error))
    };
    let advised = |error: Error| error.advice("run `cas fsck --repair`");
    parsed.map_err(|error| advised(error).operation(operation).subject(&record.key))
}

/// Returns whether a record is intact, but was written for another key or another table.
pub(crate) fn is_of_another_key(table: Table, record: &Record) -> bool {
    is_intact(&record.value) && !is_in_place(table, record)
}

/// Returns the members of a record without its checksums, and without the end of the object.
pub(crate) fn content(value: &[u8]) -> &[u8] {
    let object = value.strip_suffix(END).unwrap_or(value);
    let object = split(object, SUM).map_or(object, |(before, _)| before);
    split(object, PLACE).map_or(object, |(before, _)| before)
}

/// Returns false if a record has a checksum of its bytes that is wrong.
fn is_intact(value: &[u8]) -> bool {
    summed(value).is_none_or(|(before, sum)| checksum(before).as_bytes() == sum)
}

/// Returns false if a record states another table or another key than its own.
fn is_in_place(table: Table, record: &Record) -> bool {
    let stated = summed(&record.value).and_then(|(before, _)| split(before, PLACE));
    stated.is_none_or(|(_, stated)| place(table, &record.key).as_bytes() == stated)
}

/// Returns the bytes that the last member of a record covers, and the checksum in this member.
fn summed(value: &[u8]) -> Option<(&[u8], &[u8])> {
    split(value.strip_suffix(END)?, SUM)
}

/// Splits the last member off an object without its end. Returns what is before this member, and
/// the checksum in it, or `None` if the member does not begin with `start`.
fn split<'a>(object: &'a [u8], start: &[u8]) -> Option<(&'a [u8], &'a [u8])> {
    let rest = object.strip_suffix(QUOTE)?;
    let (rest, digits) = rest.split_at_checked(rest.len().checked_sub(DIGITS)?)?;
    Some((rest.strip_suffix(start)?, digits))
}

/// Returns the checksum of a table and a key.
fn place(table: Table, key: &str) -> String {
    checksum(format!("{}/{key}", table.name()).as_bytes())
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

    fn record(key: &str, value: impl Into<Bytes>) -> Record {
        Record {
            key: key.into(),
            value: value.into(),
            revision: Revision::new("1"),
        }
    }

    fn read(value: impl Into<Bytes>) -> Result<Map> {
        decode(Table::Leases, &record("a", value), "read test")
    }

    #[test]
    fn no_changed_bit_is_read() {
        let map = Map::from([("key".to_owned(), "a value".to_owned())]);
        let stored = encode(Table::Leases, "a", &map).unwrap();
        assert_eq!(read(stored.clone()).unwrap()["key"], "a value");
        let end = stored.len() - SUM.len() - DIGITS - QUOTE.len() - END.len();
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
    fn a_record_is_read_only_under_its_key() {
        let map = Map::from([("key".to_owned(), "old".to_owned())]);
        let stored = encode(Table::Leases, "a", &map).unwrap();
        // An earlier release compares the last member, and ignores the member before it.
        let expected = r#"{"key":"old","place":"67e22a2b6fb59640","sum":"f2c685a5ed6932fb"}"#;
        assert_eq!(stored, expected);
        for (table, key, is_read) in [
            (Table::Leases, "a", true),
            (Table::Leases, "b", false),
            (Table::Leases, "", false),
            (Table::Leases, "a ", false),
            (Table::Blobs, "a", false),
        ] {
            let moved = record(key, stored.clone());
            assert_eq!(is_of_another_key(table, &moved), !is_read, "{key:?}");
            match decode::<Map>(table, &moved, "read test") {
                Ok(map) => assert!(is_read && map["key"] == "old", "{key:?}"),
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::Corrupt);
                    let text = error.to_string();
                    assert!(!is_read && text.contains("another key"), "{text}");
                }
            }
        }
        assert_eq!(content(&stored), b"{\"key\":\"old\"");
    }

    #[test]
    fn a_record_of_an_earlier_release_is_read() {
        assert_eq!(read("{\"key\":\"old\"}").unwrap()["key"], "old");
        assert_eq!(read("{\"sum\":\"0123456789abcdef\"}").unwrap().len(), 1);
        let only_sum = r#"{"key":"old","sum":"21b842436bd06fe3"}"#;
        assert_eq!(read(only_sum).unwrap()["key"], "old");
        let error = read(only_sum.replace("old", "odd")).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
        for value in [only_sum, "{\"key\":\"old\"}"] {
            assert_eq!(content(value.as_bytes()), b"{\"key\":\"old\"");
        }
        for broken in ["", "}", "\"}", "{"] {
            assert_eq!(read(broken).unwrap_err().kind(), ErrorKind::Corrupt);
        }
    }
}
