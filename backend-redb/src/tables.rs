//! The tables of the file, and a write transaction on them.

use cas_core::Digest;
use cas_core::records::Table as RecordTable;
use cas_kv::{BlobEntry, Failed, IngestEntry, Key, Rows, Transaction};
use redb::{ReadableTable, StorageError, Table, TableDefinition, WriteTransaction};

use crate::error::broken;

/// Minimum number of keys that are removed in one pass over the table.
const PASS_KEYS: usize = 8;
/// Maximum number of rows that a pass visits for each key that it removes.
const PASS_ROWS: usize = 4;

/// The version of the format, the next free number for rows and revisions, and how many bytes were
/// removed since the last compaction.
pub(crate) const META: TableDefinition<'static, &str, u64> = TableDefinition::new("cas");
/// Entries of blobs.
pub(crate) const BLOBS: TableDefinition<'static, &[u8], BlobValue> =
    TableDefinition::new("content");
/// Rows of bytes, by the row number of their blob or ingest and their offset in it.
pub(crate) const ROWS: TableDefinition<'static, (u64, u64), &[u8]> = TableDefinition::new("rows");
/// Ingests that have rows.
pub(crate) const INGESTS: TableDefinition<'static, &str, IngestValue> =
    TableDefinition::new("ingests");
/// Row numbers of removed blobs and ingests that still have rows, and how many bytes each had.
pub(crate) const DOOMED: TableDefinition<'static, u64, u64> = TableDefinition::new("doomed");

/// A blob: its size, its row number, and its bytes if they are inline.
pub(crate) type BlobValue = (u64, u64, &'static [u8]);
/// An ingest: its row number, how many bytes its rows have, and the time of the last write in
/// milliseconds since 1970.
pub(crate) type IngestValue = (u64, u64, u64);
/// A record: its revision and its value.
pub(crate) type RecordValue = (u64, &'static [u8]);

/// Returns the definition of a records table. Keys are text, but stored as bytes, because redb
/// would validate text at every comparison.
pub(crate) const fn records(
    table: RecordTable,
) -> TableDefinition<'static, &'static [u8], RecordValue> {
    TableDefinition::new(table.name())
}

/// Decodes the entry of a blob.
pub(crate) fn blob_entry((size, number, inline): (u64, u64, &[u8])) -> BlobEntry {
    BlobEntry {
        size,
        number,
        rows: if size == inline.len() as u64 {
            Rows::Inline
        } else {
            Rows::Many
        },
    }
}

/// Decodes the entry of an ingest.
pub(crate) fn ingest_entry((number, offset, millis): IngestValue) -> IngestEntry {
    IngestEntry {
        number,
        offset,
        millis,
    }
}

/// The tables, open in one write transaction.
pub(crate) struct Tables<'a> {
    meta: Table<'a, &'static str, u64>,
    blobs: Table<'a, &'static [u8], BlobValue>,
    pub(crate) rows: Table<'a, (u64, u64), &'static [u8]>,
    ingests: Table<'a, &'static str, IngestValue>,
    pub(crate) doomed: Table<'a, u64, u64>,
    records: [Table<'a, &'static [u8], RecordValue>; RecordTable::ALL.len()],
}

impl<'a> Tables<'a> {
    /// Opens the tables, and creates those that do not exist.
    pub(crate) fn open(tx: &'a WriteTransaction) -> Result<Self, Failed> {
        let [blobs, images, snapshots, leases, notes] =
            RecordTable::ALL.map(|table| tx.open_table(records(table)).map_err(broken));
        Ok(Tables {
            meta: tx.open_table(META).map_err(broken)?,
            blobs: tx.open_table(BLOBS).map_err(broken)?,
            rows: tx.open_table(ROWS).map_err(broken)?,
            ingests: tx.open_table(INGESTS).map_err(broken)?,
            doomed: tx.open_table(DOOMED).map_err(broken)?,
            records: [blobs?, images?, snapshots?, leases?, notes?],
        })
    }

    fn records(&mut self, table: RecordTable) -> &mut Table<'a, &'static [u8], RecordValue> {
        &mut self.records[table as usize]
    }
}

impl Transaction for Tables<'_> {
    fn meta(&mut self, name: &str) -> Result<Option<u64>, Failed> {
        let found = self.meta.get(name).map_err(broken)?;
        Ok(found.map(|found| found.value()))
    }

    fn set_meta(&mut self, name: &str, number: u64) -> Result<(), Failed> {
        self.meta.insert(name, number).map_err(broken)?;
        Ok(())
    }

    fn find_blob(&mut self, digest: &Digest) -> Result<Option<BlobEntry>, Failed> {
        let found = self.blobs.get(Key::of(digest).bytes()).map_err(broken)?;
        Ok(found.map(|found| blob_entry(found.value())))
    }

    fn insert_blob(
        &mut self,
        digest: &Digest,
        blob: BlobEntry,
        inline: &[u8],
    ) -> Result<(), Failed> {
        let value = (blob.size, blob.number, inline);
        let key = Key::of(digest);
        self.blobs.insert(key.bytes(), value).map_err(broken)?;
        Ok(())
    }

    fn remove_blobs(&mut self, digests: &[&Digest]) -> Result<(), Failed> {
        let keys: Vec<Key> = digests.iter().map(|digest| Key::of(digest)).collect();
        let keys: Vec<&[u8]> = keys.iter().map(Key::bytes).collect();
        remove_all(&mut self.blobs, &keys).map_err(broken)
    }

    fn write_row(&mut self, number: u64, offset: u64, row: &[u8]) -> Result<(), Failed> {
        self.rows.insert((number, offset), row).map_err(broken)?;
        Ok(())
    }

    fn remove_rows(&mut self, blob: BlobEntry) -> Result<bool, Failed> {
        self.remove_all_rows(blob.number, blob.size).map_err(broken)
    }

    fn put_ingest(&mut self, key: &str, ingest: IngestEntry) -> Result<(), Failed> {
        let value = (ingest.number, ingest.offset, ingest.millis);
        self.ingests.insert(key, value).map_err(broken)?;
        Ok(())
    }

    fn remove_ingest(&mut self, key: &str) -> Result<Option<IngestEntry>, Failed> {
        let removed = self.ingests.remove(key).map_err(broken)?;
        Ok(removed.map(|removed| ingest_entry(removed.value())))
    }

    fn revisions(&mut self, table: RecordTable, keys: &[&str]) -> Result<Vec<Option<u64>>, Failed> {
        let records = self.records(table);
        let revision = |key: &&str| {
            let found = records.get(key.as_bytes()).map_err(broken)?;
            Ok(found.map(|found| found.value().0))
        };
        keys.iter().map(revision).collect()
    }

    fn put_record(
        &mut self,
        table: RecordTable,
        key: &str,
        revision: u64,
        value: &[u8],
    ) -> Result<(), Failed> {
        let table = self.records(table);
        let put = table.insert(key.as_bytes(), (revision, value));
        put.map_err(broken).map(|_| ())
    }

    fn remove_records(&mut self, table: RecordTable, keys: &[&str]) -> Result<(), Failed> {
        let keys: Vec<&[u8]> = keys.iter().map(|key| key.as_bytes()).collect();
        remove_all(self.records(table), &keys).map_err(broken)
    }
}

/// Removes keys. Sorted keys that are close together are removed in one pass, which rebalances the
/// tree once instead of for each key.
fn remove_all<V: redb::Value + 'static>(
    table: &mut Table<'_, &'static [u8], V>,
    keys: &[&[u8]],
) -> Result<(), StorageError> {
    if !are_close(table, keys)? {
        return (keys.iter()).try_for_each(|key| table.remove(key).map(drop));
    }
    let mut wanted = keys.iter().copied().peekable();
    table.retain_in::<&[u8], _>(keys[0]..=keys[keys.len() - 1], |key, _| {
        while wanted.next_if(|wanted| *wanted < key).is_some() {}
        wanted.peek() != Some(&key)
    })
}

/// Returns whether the keys are many and sorted, with few other keys between them.
fn are_close<V: redb::Value + 'static>(
    table: &Table<'_, &'static [u8], V>,
    keys: &[&[u8]],
) -> Result<bool, StorageError> {
    let (Some(first), Some(last)) = (keys.first(), keys.last()) else {
        return Ok(false);
    };
    if keys.len() < PASS_KEYS || !keys.is_sorted() {
        return Ok(false);
    }
    let between = table.range::<&[u8]>(*first..=*last)?;
    Ok(between.take(PASS_ROWS * keys.len() + 1).count() <= PASS_ROWS * keys.len())
}
