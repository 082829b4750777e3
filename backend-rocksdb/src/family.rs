//! Column families, and how what they hold is encoded.

use bytes::Bytes;
use cas_core::Result;
use cas_core::records::Table;
use cas_kv::{Found, Rows, Staged};

use crate::error::corrupt;

/// Numbers that the store keeps of itself; the one that every database has.
pub(crate) const META: &str = "default";
/// Blobs.
pub(crate) const CONTENT: &str = "content";
/// Bytes, by the number of their blob and their offset in it.
pub(crate) const ROWS: &str = "rows";
/// Ingests that have rows.
pub(crate) const INGESTS: &str = "ingests";

/// Most bytes of a row: what is read where one byte of it is wanted.
pub(crate) const ROW: usize = 64 << 10;

/// All of them.
pub(crate) fn all() -> impl Iterator<Item = &'static str> {
    let records = Table::ALL.map(Table::name);
    [META, CONTENT, ROWS, INGESTS].into_iter().chain(records)
}

/// The key of a row.
pub(crate) fn row(number: u64, offset: u64) -> [u8; 16] {
    let mut key = [0; 16];
    key[..8].copy_from_slice(&number.to_be_bytes());
    key[8..].copy_from_slice(&offset.to_be_bytes());
    key
}

/// The number and the offset in the key of a row.
pub(crate) fn row_of(key: &[u8]) -> Result<(u64, u64)> {
    match key.split_first_chunk::<8>() {
        Some((number, offset)) => Ok((
            u64::from_be_bytes(*number),
            u64::from_be_bytes(
                offset
                    .try_into()
                    .map_err(|_| corrupt("a key of a row is cut"))?,
            ),
        )),
        None => Err(corrupt("a key of a row is cut")),
    }
}

/// A number as a value.
pub(crate) fn number(value: &[u8]) -> Result<u64> {
    Ok(take(value)?.0)
}

/// The entry of a blob.
pub(crate) fn entry(found: Found, beside: &[u8]) -> Vec<u8> {
    let rows = match found.rows {
        Rows::Beside => 0,
        Rows::One => 1,
        Rows::Many => 2,
    };
    let mut entry = Vec::with_capacity(17 + beside.len());
    entry.extend_from_slice(&found.size.to_le_bytes());
    entry.extend_from_slice(&found.number.to_le_bytes());
    entry.push(rows);
    entry.extend_from_slice(beside);
    entry
}

/// What an entry says, and the bytes in it.
pub(crate) fn found(entry: &[u8]) -> Result<(Found, &[u8])> {
    let (size, entry) = take(entry)?;
    let (number, entry) = take(entry)?;
    let (rows, beside) = match entry.split_first() {
        Some((0, beside)) => (Rows::Beside, beside),
        Some((1, beside)) => (Rows::One, beside),
        Some((2, beside)) => (Rows::Many, beside),
        _ => return Err(corrupt("the entry of a blob is none")),
    };
    let found = Found { size, number, rows };
    Ok((found, beside))
}

/// The note of an ingest, whose rows say themselves how far they go.
pub(crate) fn note(staged: Staged) -> [u8; 16] {
    let mut note = [0; 16];
    note[..8].copy_from_slice(&staged.number.to_le_bytes());
    note[8..].copy_from_slice(&staged.millis.to_le_bytes());
    note
}

/// The number of the rows and the time in a note.
pub(crate) fn noted(note: &[u8]) -> Result<(u64, u64)> {
    let (number, millis) = take(note)?;
    Ok((number, take(millis)?.0))
}

/// A record.
pub(crate) fn record(revision: u64, value: &[u8]) -> Vec<u8> {
    [&revision.to_le_bytes(), value].concat()
}

/// The revision and the value of a record.
pub(crate) fn recorded(record: &[u8]) -> Result<(u64, Bytes)> {
    let (revision, value) = take(record)?;
    Ok((revision, Bytes::copy_from_slice(value)))
}

fn take(value: &[u8]) -> Result<(u64, &[u8])> {
    let split = value.split_first_chunk::<8>();
    let (number, rest) = split.ok_or_else(|| corrupt("a value is cut"))?;
    Ok((u64::from_le_bytes(*number), rest))
}
