//! A write transaction, which collects changes until they are written together. A read in the
//! transaction includes the changes that are already collected, except changes of rows (pieces of
//! blobs).

use std::collections::HashMap;

use cas_core::records::Table;
use cas_core::{Digest, ErrorKind};
use cas_kv::{BlobEntry, Failed, IngestEntry, Key, Rows, Transaction};
use rocksdb::{DBRawIterator, WriteBatch};

use crate::database::Database;
use crate::error::broken;
use crate::family::{self, CONTENT, INGESTS, META, ROWS};

/// Milliseconds after which the time of an ingest is written again. The size of an ingest is not
/// written, because the rows show the size.
const TIME_STEP: u64 = 1000;

/// Minimum number of keys that are looked up with one iterator.
const ITERATE_KEYS: usize = 8;
/// Maximum number of rows that the iterator skips before it seeks.
const SKIP_ROWS: usize = 4;

/// Changed keys with their new values, or `None` for removed keys.
type Changed = HashMap<Box<[u8]>, Option<Box<[u8]>>>;

/// Changes that are not written yet.
pub(crate) struct Tables<'a> {
    db: &'a Database,
    /// Changes that are written through the log.
    logged: WriteBatch,
    staged: StagedRows,
    /// Changes in each column family, except rows.
    changed: HashMap<&'static str, Changed>,
}

/// Rows that bypass the log.
#[derive(Default)]
pub(crate) struct StagedRows {
    pub(crate) rows: WriteBatch,
    /// Whether these rows include the first rows of an ingest.
    pub(crate) first: bool,
}

impl<'a> Tables<'a> {
    /// Returns a transaction without changes.
    pub(crate) fn new(db: &'a Database) -> Self {
        Tables {
            db,
            logged: WriteBatch::default(),
            staged: StagedRows::default(),
            changed: HashMap::new(),
        }
    }

    /// Returns the changes to write through the log, and the rows that bypass it.
    pub(crate) fn into_parts(self) -> (WriteBatch, StagedRows) {
        (self.logged, self.staged)
    }

    /// Returns the value of a key, decoded by `read`.
    fn get<T>(
        &self,
        family: &'static str,
        key: &[u8],
        read: impl FnOnce(&[u8]) -> cas_core::Result<T>,
    ) -> Result<Option<T>, Failed> {
        let read = |value: &[u8]| read(value).map_err(Failed::Broken);
        if let Some(changed) = self.changed(family, key) {
            return changed.map(read).transpose();
        }
        let family = self.db.family(family).map_err(Failed::Broken)?;
        let found = self.db.db.get_pinned_cf(family, key).map_err(broken)?;
        found.as_deref().map(read).transpose()
    }

    /// Returns the values of many keys, decoded by `read`. Fast if the keys are sorted and close
    /// together.
    fn get_all<T>(
        &self,
        family: &'static str,
        keys: &[&[u8]],
        read: impl Fn(&[u8]) -> cas_core::Result<T>,
    ) -> Result<Vec<Option<T>>, Failed> {
        if keys.len() < ITERATE_KEYS {
            return keys
                .iter()
                .map(|key| self.get(family, key, &read))
                .collect();
        }
        let mut rows = self.db.iterate(family).map_err(Failed::Broken)?;
        let mut all = Vec::with_capacity(keys.len());
        for key in keys {
            let value = match self.changed(family, key) {
                Some(changed) => changed,
                None => find(&mut rows, key).map_err(broken)?,
            };
            all.push(value.map(&read).transpose().map_err(Failed::Broken)?);
        }
        Ok(all)
    }

    /// Returns `Some` with the new value of a changed key. This value is `None` for a removed key.
    /// Returns `None` if the key was not changed.
    fn changed(&self, family: &str, key: &[u8]) -> Option<Option<&[u8]>> {
        let changed = self.changed.get(family)?.get(key)?;
        Some(changed.as_deref())
    }

    fn set(
        &mut self,
        family: &'static str,
        key: &[u8],
        value: Option<&[u8]>,
    ) -> Result<(), Failed> {
        let handle = self.db.family(family).map_err(Failed::Broken)?;
        match value {
            Some(value) => self.logged.put_cf(handle, key, value),
            None => self.logged.delete_cf(handle, key),
        }
        let value = value.map(Into::into);
        let changed = self.changed.entry(family).or_default();
        changed.insert(key.into(), value);
        Ok(())
    }
}

/// Returns the value of a key, which is usually a few rows after the position of the iterator.
fn find<'a>(
    rows: &'a mut DBRawIterator<'_>,
    key: &[u8],
) -> Result<Option<&'a [u8]>, rocksdb::Error> {
    for _ in 0..SKIP_ROWS {
        match rows.key() {
            Some(at) if at < key => rows.next(),
            _ => break,
        }
    }
    if rows.key() != Some(key) {
        rows.seek(key);
    }
    rows.status()?;
    Ok(rows
        .item()
        .filter(|(at, _)| *at == key)
        .map(|(_, value)| value))
}

impl Transaction for Tables<'_> {
    fn meta(&mut self, name: &str) -> Result<Option<u64>, Failed> {
        self.get(META, name.as_bytes(), family::decode_number)
    }

    fn set_meta(&mut self, name: &str, number: u64) -> Result<(), Failed> {
        self.set(META, name.as_bytes(), Some(&number.to_le_bytes()))
    }

    fn find_blob(&mut self, digest: &Digest) -> Result<Option<BlobEntry>, Failed> {
        let found = self.get(CONTENT, Key::of(digest).bytes(), |value| {
            Ok(family::decode_blob(value)?.0)
        });
        match found {
            Err(Failed::Broken(error)) if error.kind() == ErrorKind::Corrupt => {
                Ok(Some(BlobEntry::UNREADABLE))
            }
            found => found,
        }
    }

    fn find_blobs(&mut self, digests: &[&Digest]) -> Result<Vec<Option<BlobEntry>>, Failed> {
        let keys: Vec<Key> = digests.iter().map(|digest| Key::of(digest)).collect();
        let keys: Vec<&[u8]> = keys.iter().map(Key::bytes).collect();
        match self.get_all(CONTENT, &keys, |value| Ok(family::decode_blob(value)?.0)) {
            // One of the entries cannot be read, or another one in the same block.
            Err(Failed::Broken(error)) if error.kind() == ErrorKind::Corrupt => {
                let find = |digest: &&Digest| self.find_blob(digest);
                digests.iter().map(find).collect()
            }
            found => found,
        }
    }

    fn insert_blob(
        &mut self,
        digest: &Digest,
        blob: BlobEntry,
        inline: &[u8],
    ) -> Result<(), Failed> {
        let value = family::encode_blob(blob, inline);
        self.set(CONTENT, Key::of(digest).bytes(), Some(&value))
    }

    fn remove_blobs(&mut self, digests: &[&Digest]) -> Result<(), Failed> {
        let mut keys = digests.iter().map(|digest| Key::of(digest));
        keys.try_for_each(|key| self.set(CONTENT, key.bytes(), None))
    }

    fn write_row(&mut self, number: u64, offset: u64, row: &[u8]) -> Result<(), Failed> {
        let rows = self.db.family(ROWS).map_err(Failed::Broken)?;
        let key = family::row_key(number, offset);
        self.logged.put_cf(rows, key, row);
        Ok(())
    }

    fn stage_row(&mut self, number: u64, offset: u64, row: &[u8]) -> Result<(), Failed> {
        let rows = self.db.family(ROWS).map_err(Failed::Broken)?;
        let key = family::row_key(number, offset);
        self.staged.rows.put_cf(rows, key, row);
        Ok(())
    }

    fn remove_rows(&mut self, blob: BlobEntry) -> Result<bool, Failed> {
        let rows = self.db.family(ROWS).map_err(Failed::Broken)?;
        let first = family::row_key(blob.number, 0);
        match blob.rows {
            // Inline bytes are removed with the entry, which RocksDB compacts by itself.
            Rows::Inline => return Ok(false),
            Rows::One => self.logged.delete_cf(rows, first),
            Rows::Many => {
                let end = family::row_key(blob.number, u64::MAX);
                self.logged.delete_range_cf(rows, first, end);
            }
        }
        Ok(false)
    }

    fn put_ingest(&mut self, key: &str, ingest: IngestEntry) -> Result<(), Failed> {
        let known = self.get(INGESTS, key.as_bytes(), family::decode_ingest)?;
        self.staged.first |= known.is_none();
        // If nothing is written to the log, the flush of the rows does not start a new log.
        if known.is_some_and(|(_, millis)| ingest.millis.abs_diff(millis) < TIME_STEP) {
            return Ok(());
        }
        self.set(
            INGESTS,
            key.as_bytes(),
            Some(&family::encode_ingest(ingest)),
        )
    }

    fn remove_ingest(&mut self, key: &str) -> Result<Option<IngestEntry>, Failed> {
        let found = self.get(INGESTS, key.as_bytes(), family::decode_ingest)?;
        let Some((number, millis)) = found else {
            return Ok(None);
        };
        self.set(INGESTS, key.as_bytes(), None)?;
        let offset = self.db.end_of_rows(number).map_err(Failed::Broken)?;
        Ok(Some(IngestEntry {
            number,
            offset,
            millis,
        }))
    }

    fn revisions(&mut self, table: Table, keys: &[&str]) -> Result<Vec<Option<u64>>, Failed> {
        let (family, _) = family::record_key(table, "");
        let keys: Vec<_> = keys
            .iter()
            .map(|key| family::record_key(table, key).1)
            .collect();
        let keys: Vec<&[u8]> = keys.iter().map(AsRef::as_ref).collect();
        self.get_all(family, &keys, family::decode_number)
    }

    fn put_record(
        &mut self,
        table: Table,
        key: &str,
        revision: u64,
        value: &[u8],
    ) -> Result<(), Failed> {
        let record = family::encode_record(revision, value);
        let (family, key) = family::record_key(table, key);
        self.set(family, &key, Some(&record))
    }

    fn remove_records(&mut self, table: Table, keys: &[&str]) -> Result<(), Failed> {
        let mut keys = keys.iter().map(|key| family::record_key(table, key));
        keys.try_for_each(|(family, key)| self.set(family, &key, None))
    }
}
