//! The tables as one commit left them.

use std::ops::Bound;

use bytes::{Bytes, BytesMut};
use cas_core::records::Table as Home;
use cas_core::{Digest, Error, Result};
use cas_kv::{Found, Key, Staged, View};
use redb::{ReadOnlyTable, ReadTransaction, ReadableTable, TableError};

use crate::error::{corrupt, sort};
use crate::tables::records;
use crate::tables::{BLOBS, DOOMED, Entry, INGESTS, META, Noted, ROWS, Value, found, staged};

/// Most bytes that are reserved for a read before they are found.
const RESERVED: usize = 8 << 20;

/// The tables, for readers.
pub(crate) struct RedbView {
    meta: ReadOnlyTable<&'static str, u64>,
    blobs: ReadOnlyTable<&'static [u8], Entry>,
    rows: ReadOnlyTable<(u64, u64), &'static [u8]>,
    ingests: ReadOnlyTable<&'static str, Noted>,
    pub(crate) doomed: ReadOnlyTable<u64, u64>,
    records: [ReadOnlyTable<&'static [u8], Value>; Home::ALL.len()],
}

impl RedbView {
    /// Opens them.
    pub(crate) fn open(tx: &ReadTransaction) -> Result<Self> {
        let [blobs, images, snapshots, leases] =
            Home::ALL.map(|kind| tx.open_table(records(kind)).map_err(absent));
        Ok(RedbView {
            meta: tx.open_table(META).map_err(absent)?,
            blobs: tx.open_table(BLOBS).map_err(absent)?,
            rows: tx.open_table(ROWS).map_err(absent)?,
            ingests: tx.open_table(INGESTS).map_err(absent)?,
            doomed: tx.open_table(DOOMED).map_err(absent)?,
            records: [blobs?, images?, snapshots?, leases?],
        })
    }
}

/// A file without these tables was never ours.
fn absent(error: TableError) -> Error {
    match error {
        TableError::Storage(error) => sort(error),
        _ => Error::precondition("it is a database of another program; choose another directory"),
    }
}

impl View for RedbView {
    fn meta(&self, name: &str) -> Result<Option<u64>> {
        let found = self.meta.get(name).map_err(sort)?;
        Ok(found.map(|found| found.value()))
    }

    fn find(&self, digest: &Digest) -> Result<Option<Found>> {
        let entry = self.blobs.get(Key::of(digest).bytes()).map_err(sort)?;
        Ok(entry.map(|entry| found(entry.value())))
    }

    fn open(&self, digest: &Digest) -> Result<Option<(Found, Bytes)>> {
        let entry = self.blobs.get(Key::of(digest).bytes()).map_err(sort)?;
        Ok(entry.map(|entry| {
            let entry = entry.value();
            (found(entry), Bytes::copy_from_slice(entry.2))
        }))
    }

    fn list(&self, after: Option<&Digest>, limit: usize) -> Result<Vec<(Digest, Found)>> {
        let after = after.map(Key::of);
        let from = match &after {
            Some(after) => Bound::Excluded(after.bytes()),
            None => Bound::Unbounded,
        };
        let rows = self.blobs.range::<&[u8]>((from, Bound::Unbounded));
        let blobs = rows.map_err(sort)?.take(limit).map(|row| {
            let (key, entry) = row.map_err(sort)?;
            let digest = Key::digest(key.value());
            let digest = digest.ok_or_else(|| corrupt("the key of a blob is no digest"))?;
            Ok((digest, found(entry.value())))
        });
        blobs.collect()
    }

    fn read(&self, number: u64, offset: u64, length: usize) -> Result<Bytes> {
        let mut data = BytesMut::with_capacity(length.min(RESERVED));
        let mut before = self
            .rows
            .range((number, 0)..=(number, offset))
            .map_err(sort)?;
        let Some(first) = before.next_back().transpose().map_err(sort)? else {
            return Ok(Bytes::new());
        };
        let first = first.0.value().1;
        let rows = self
            .rows
            .range((number, first)..=(number, u64::MAX))
            .map_err(sort)?;
        for row in rows {
            let (key, row) = row.map_err(sort)?;
            let at = offset + data.len() as u64;
            let (start, row) = (key.value().1, row.value());
            let skip = usize::try_from(at.saturating_sub(start)).unwrap_or(usize::MAX);
            let Some(found) = row.get(skip..).filter(|_| start <= at) else {
                break;
            };
            let wanted = found.len().min(length - data.len());
            data.extend_from_slice(&found[..wanted]);
            if data.len() == length {
                break;
            }
        }
        Ok(data.freeze())
    }

    fn ingest(&self, key: &str) -> Result<Option<Staged>> {
        let noted = self.ingests.get(key).map_err(sort)?;
        Ok(noted.map(|noted| staged(noted.value())))
    }

    fn ingests(&self) -> Result<Vec<(String, Staged)>> {
        let rows = self.ingests.iter().map_err(sort)?;
        rows.map(|row| {
            let (key, noted) = row.map_err(sort)?;
            Ok((key.value().to_owned(), staged(noted.value())))
        })
        .collect()
    }

    fn record(&self, table: Home, key: &str) -> Result<Option<(u64, Bytes)>> {
        let found = self.records[table as usize].get(key.as_bytes());
        Ok(found.map_err(sort)?.map(|found| {
            let (revision, value) = found.value();
            (revision, Bytes::copy_from_slice(value))
        }))
    }

    fn records(
        &self,
        table: Home,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<(String, u64, Bytes)>> {
        let from = match after {
            Some(after) => Bound::Excluded(after.as_bytes()),
            None => Bound::Included(prefix.as_bytes()),
        };
        let mut page = Vec::new();
        let rows = self.records[table as usize].range::<&[u8]>((from, Bound::Unbounded));
        for row in rows.map_err(sort)?.take(limit) {
            let (key, value) = row.map_err(sort)?;
            if !key.value().starts_with(prefix.as_bytes()) {
                break;
            }
            let key = String::from_utf8(key.value().to_vec());
            let key = key.map_err(|_| corrupt("the key of a record is no text"))?;
            let (revision, value) = value.value();
            page.push((key, revision, Bytes::copy_from_slice(value)));
        }
        Ok(page)
    }
}
