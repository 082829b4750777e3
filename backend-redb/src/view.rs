//! The tables as of one commit.

use std::ops::Bound;

use bytes::{Bytes, BytesMut};
use cas_core::records::Table as RecordTable;
use cas_core::{Digest, Error, Result};
use cas_kv::{BlobEntry, IngestEntry, Key, View};
use redb::{ReadOnlyTable, ReadTransaction, ReadableTable, TableError};

use crate::error::{classify, corrupt};
use crate::tables::{BLOBS, DOOMED, INGESTS, META, ROWS};
use crate::tables::{BlobValue, IngestValue, RecordValue, blob_entry, ingest_entry, records};

/// Maximum size in bytes of the buffer that a read allocates before it finds any rows.
const BUFFER_MAX: usize = 8 << 20;

/// The tables in a read transaction.
pub(crate) struct RedbView {
    meta: ReadOnlyTable<&'static str, u64>,
    blobs: ReadOnlyTable<&'static [u8], BlobValue>,
    rows: ReadOnlyTable<(u64, u64), &'static [u8]>,
    ingests: ReadOnlyTable<&'static str, IngestValue>,
    pub(crate) doomed: ReadOnlyTable<u64, u64>,
    records: [Option<Records>; RecordTable::ALL.len()],
}

/// A records table.
type Records = ReadOnlyTable<&'static [u8], RecordValue>;

impl RedbView {
    /// Opens the tables.
    pub(crate) fn open(tx: &ReadTransaction) -> Result<Self> {
        let [blobs, images, snapshots, leases, notes] =
            RecordTable::ALL.map(|table| open_records(tx, table));
        Ok(RedbView {
            meta: tx.open_table(META).map_err(missing)?,
            blobs: tx.open_table(BLOBS).map_err(missing)?,
            rows: tx.open_table(ROWS).map_err(missing)?,
            ingests: tx.open_table(INGESTS).map_err(missing)?,
            doomed: tx.open_table(DOOMED).map_err(missing)?,
            records: [blobs?, images?, snapshots?, leases?, notes?],
        })
    }
}

impl RedbView {
    /// Returns the sum of `footprint` over the sizes of all blobs and ingests.
    pub(crate) fn sum_sizes(&self, footprint: impl Fn(u64) -> u64) -> Result<u64> {
        let mut sum = 0;
        for row in self.blobs.iter().map_err(classify)? {
            sum += footprint(row.map_err(classify)?.1.value().0);
        }
        for row in self.ingests.iter().map_err(classify)? {
            sum += footprint(ingest_entry(row.map_err(classify)?.1.value()).offset);
        }
        Ok(sum)
    }
}

/// Opens a records table. Returns `None` for the notes of a store of format 1, which is read before
/// its format is upgraded.
fn open_records(tx: &ReadTransaction, table: RecordTable) -> Result<Option<Records>> {
    match tx.open_table(records(table)) {
        Ok(records) => Ok(Some(records)),
        Err(TableError::TableDoesNotExist(_)) if table == RecordTable::Notes => Ok(None),
        Err(error) => Err(missing(error)),
    }
}

/// Converts the error of a table that cannot be opened. Every store has all tables, except that a
/// store of format 1 has no notes.
fn missing(error: TableError) -> Error {
    match error {
        TableError::Storage(error) => classify(error),
        _ => {
            Error::precondition("the database belongs to another program; choose another directory")
                .source(error)
        }
    }
}

impl View for RedbView {
    fn meta(&self, name: &str) -> Result<Option<u64>> {
        let found = self.meta.get(name).map_err(classify)?;
        Ok(found.map(|found| found.value()))
    }

    fn find_blob(&self, digest: &Digest) -> Result<Option<BlobEntry>> {
        let found = self.blobs.get(Key::of(digest).bytes());
        Ok(found
            .map_err(classify)?
            .map(|found| blob_entry(found.value())))
    }

    fn open_blob(&self, digest: &Digest) -> Result<Option<(BlobEntry, Bytes)>> {
        let found = self.blobs.get(Key::of(digest).bytes());
        Ok(found.map_err(classify)?.map(|found| {
            let value = found.value();
            (blob_entry(value), Bytes::copy_from_slice(value.2))
        }))
    }

    fn list_blobs(&self, after: Option<&Digest>, limit: usize) -> Result<Vec<(Digest, BlobEntry)>> {
        let after = after.map(Key::of);
        let from = match &after {
            Some(after) => Bound::Excluded(after.bytes()),
            None => Bound::Unbounded,
        };
        let rows = self.blobs.range::<&[u8]>((from, Bound::Unbounded));
        let blobs = rows.map_err(classify)?.take(limit).map(|row| {
            let (key, value) = row.map_err(classify)?;
            let digest = Key::digest(key.value());
            let digest = digest.ok_or_else(|| corrupt("a blob has an invalid key"))?;
            Ok((digest, blob_entry(value.value())))
        });
        blobs.collect()
    }

    fn read_rows(&self, number: u64, offset: u64, length: usize) -> Result<Bytes> {
        let mut data = BytesMut::with_capacity(length.min(BUFFER_MAX));
        let mut before = self
            .rows
            .range((number, 0)..=(number, offset))
            .map_err(classify)?;
        let Some(first) = before.next_back().transpose().map_err(classify)? else {
            return Ok(Bytes::new());
        };
        let first = first.0.value().1;
        let rows = self
            .rows
            .range((number, first)..=(number, u64::MAX))
            .map_err(classify)?;
        for row in rows {
            let (key, row) = row.map_err(classify)?;
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

    fn ingest(&self, key: &str) -> Result<Option<IngestEntry>> {
        let found = self.ingests.get(key).map_err(classify)?;
        Ok(found.map(|found| ingest_entry(found.value())))
    }

    fn ingests(&self) -> Result<Vec<(String, IngestEntry)>> {
        let rows = self.ingests.iter().map_err(classify)?;
        rows.map(|row| {
            let (key, value) = row.map_err(classify)?;
            Ok((key.value().to_owned(), ingest_entry(value.value())))
        })
        .collect()
    }

    fn record(&self, table: RecordTable, key: &str) -> Result<Option<(u64, Bytes)>> {
        let Some(records) = &self.records[table as usize] else {
            return Ok(None);
        };
        let found = records.get(key.as_bytes());
        Ok(found.map_err(classify)?.map(|found| {
            let (revision, value) = found.value();
            (revision, Bytes::copy_from_slice(value))
        }))
    }

    fn records(
        &self,
        table: RecordTable,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<(String, u64, Bytes)>> {
        let from = match after {
            Some(after) => Bound::Excluded(after.as_bytes()),
            None => Bound::Included(prefix.as_bytes()),
        };
        let mut page = Vec::new();
        let Some(records) = &self.records[table as usize] else {
            return Ok(page);
        };
        let rows = records.range::<&[u8]>((from, Bound::Unbounded));
        for row in rows.map_err(classify)?.take(limit) {
            let (key, value) = row.map_err(classify)?;
            if !key.value().starts_with(prefix.as_bytes()) {
                break;
            }
            let key = String::from_utf8(key.value().to_vec());
            let key = key.map_err(|_| corrupt("the key of a record is not UTF-8"))?;
            let (revision, value) = value.value();
            page.push((key, revision, Bytes::copy_from_slice(value)));
        }
        Ok(page)
    }
}
