//! Column families, and the encoding of their keys and values.

use std::borrow::Cow;

use bytes::Bytes;
use cas_core::Result;
use cas_core::records::Table;
use cas_kv::{BlobEntry, IngestEntry, Rows};

use crate::error::corrupt;

/// The version of the format, the next free number for rows and revisions, how many bytes were
/// removed since the last compaction, and notes. Every database of RocksDB has this family.
pub(crate) const META: &str = "default";
/// Entries of blobs.
pub(crate) const CONTENT: &str = "content";
/// Rows of bytes, by the number of their blob and their offset in it.
pub(crate) const ROWS: &str = "rows";
/// Ingests that have rows.
pub(crate) const INGESTS: &str = "ingests";

/// Maximum size of a row in bytes. A read of one byte reads a whole row.
pub(crate) const ROW_SIZE: usize = 64 << 10;

/// Returns the names of all column families.
pub(crate) fn all() -> impl Iterator<Item = &'static str> {
    let records = Table::ALL.map(record_prefix).map(|(family, _)| family);
    let records = records.into_iter().filter(|family| *family != META);
    [META, CONTENT, ROWS, INGESTS].into_iter().chain(records)
}

/// Returns the column family of a records table, and the prefix of the keys of that table in the
/// family.
///
/// Notes have no family of their own. RocksDB does not open a database with families that the
/// program does not name. If notes had a family, a release that reads only format 1 could not open
/// a newer database, so it could not report that the format is newer.
fn record_prefix(table: Table) -> (&'static str, &'static str) {
    match table {
        Table::Notes => (META, "notes/"),
        _ => (table.name(), ""),
    }
}

/// Returns the column family of a record, and the key of the record in that family. If `key` is a
/// prefix of keys, returns the prefix of these keys in the family.
pub(crate) fn record_key(table: Table, key: &str) -> (&'static str, Cow<'_, [u8]>) {
    match record_prefix(table) {
        (family, "") => (family, key.as_bytes().into()),
        (family, prefix) => (family, [prefix, key].concat().into_bytes().into()),
    }
}

/// Returns the key of a row.
pub(crate) fn row_key(number: u64, offset: u64) -> [u8; 16] {
    let mut key = [0; 16];
    key[..8].copy_from_slice(&number.to_be_bytes());
    key[8..].copy_from_slice(&offset.to_be_bytes());
    key
}

/// Decodes the key of a row. Returns its number and its offset.
pub(crate) fn decode_row_key(key: &[u8]) -> Result<(u64, u64)> {
    let truncated = || corrupt("the key of a row does not have 16 bytes");
    let (number, offset) = key.split_first_chunk::<8>().ok_or_else(truncated)?;
    let offset = offset.try_into().map_err(|_| truncated())?;
    Ok((u64::from_be_bytes(*number), u64::from_be_bytes(offset)))
}

/// Decodes the number at the start of a value.
pub(crate) fn decode_number(value: &[u8]) -> Result<u64> {
    Ok(split_number(value)?.0)
}

/// Encodes the entry of a blob, and its bytes if they are inline.
pub(crate) fn encode_blob(blob: BlobEntry, inline: &[u8]) -> Vec<u8> {
    let rows = match blob.rows {
        Rows::Inline => 0,
        Rows::One => 1,
        Rows::Many => 2,
    };
    let mut value = Vec::with_capacity(17 + inline.len());
    value.extend_from_slice(&blob.size.to_le_bytes());
    value.extend_from_slice(&blob.number.to_le_bytes());
    value.push(rows);
    value.extend_from_slice(inline);
    value
}

/// Decodes the entry of a blob. Returns the entry and the inline bytes.
pub(crate) fn decode_blob(value: &[u8]) -> Result<(BlobEntry, &[u8])> {
    let (size, rest) = split_number(value)?;
    let (number, rest) = split_number(rest)?;
    let (rows, inline) = match rest.split_first() {
        Some((0, inline)) => (Rows::Inline, inline),
        Some((1, inline)) => (Rows::One, inline),
        Some((2, inline)) => (Rows::Many, inline),
        _ => return Err(corrupt("the entry of a blob is invalid")),
    };
    Ok((BlobEntry { size, number, rows }, inline))
}

/// Encodes an ingest. Leaves out the offset, because the end of the last row shows it.
pub(crate) fn encode_ingest(ingest: IngestEntry) -> [u8; 16] {
    let mut value = [0; 16];
    value[..8].copy_from_slice(&ingest.number.to_le_bytes());
    value[8..].copy_from_slice(&ingest.millis.to_le_bytes());
    value
}

/// Decodes an ingest. Returns the number that identifies its rows, and its time in milliseconds
/// since 1970.
pub(crate) fn decode_ingest(value: &[u8]) -> Result<(u64, u64)> {
    let (number, millis) = split_number(value)?;
    Ok((number, decode_number(millis)?))
}

/// Encodes a record.
pub(crate) fn encode_record(revision: u64, value: &[u8]) -> Vec<u8> {
    [&revision.to_le_bytes(), value].concat()
}

/// Decodes a record. Returns its revision and its value.
pub(crate) fn decode_record(record: &[u8]) -> Result<(u64, Bytes)> {
    let (revision, value) = split_number(record)?;
    Ok((revision, Bytes::copy_from_slice(value)))
}

fn split_number(value: &[u8]) -> Result<(u64, &[u8])> {
    let split = value.split_first_chunk::<8>();
    let (number, rest) = split.ok_or_else(|| corrupt("a value is truncated"))?;
    Ok((u64::from_le_bytes(*number), rest))
}
