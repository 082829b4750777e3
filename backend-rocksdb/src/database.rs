//! The database and its column families.

use bytes::Bytes;
use cas_core::Result;
use cas_kv::Staged;
use rocksdb::{ColumnFamily, DB, DBPinnableSlice, DBRawIterator, Options, ReadOptions};

use crate::error::{corrupt, sort};
use crate::family::{self, ROWS};

/// The database, and the options that it counts in.
pub(crate) struct Database {
    pub(crate) db: DB,
    pub(crate) options: Options,
    /// Of rows: their digests decide what is right, as they do of the bytes of every store.
    pub(crate) unchecked: ReadOptions,
}

impl Database {
    /// The handle of a family.
    pub(crate) fn family(&self, name: &str) -> Result<&ColumnFamily> {
        let family = self.db.cf_handle(name);
        family.ok_or_else(|| corrupt(&format!("the column family {name} is missing")))
    }

    /// Writes all that is in memory to files, and begins a new log.
    pub(crate) fn flush(&self) -> Result<()> {
        let flush = |name| self.db.flush_cf(self.family(name)?).map_err(sort);
        family::all().try_for_each(flush)
    }

    /// What the engine says of the rows, in bytes.
    pub(crate) fn size(&self, property: &str) -> Result<u64> {
        let size = self.db.property_int_value_cf(self.family(ROWS)?, property);
        Ok(size.map_err(sort)?.unwrap_or(0))
    }

    pub(crate) fn get(&self, family: &str, key: &[u8]) -> Result<Option<DBPinnableSlice<'_>>> {
        let found = self.db.get_pinned_cf(self.family(family)?, key);
        found.map_err(sort)
    }

    pub(crate) fn row(&self, number: u64, offset: u64) -> Result<Option<DBPinnableSlice<'_>>> {
        let (rows, key) = (self.family(ROWS)?, family::row(number, offset));
        let found = self.db.get_pinned_cf_opt(rows, key, &self.unchecked);
        found.map_err(sort)
    }

    pub(crate) fn iterate(&self, family: &str) -> Result<DBRawIterator<'_>> {
        Ok(self.db.raw_iterator_cf(self.family(family)?))
    }

    /// How far the rows of an ingest go: those that a crash took were the last.
    pub(crate) fn end(&self, number: u64) -> Result<u64> {
        Ok(match self.last(number, u64::MAX)? {
            Some((offset, row)) => offset + row.len() as u64,
            None => 0,
        })
    }

    /// The last row of a number that begins at an offset or before it.
    pub(crate) fn last(&self, number: u64, offset: u64) -> Result<Option<(u64, Bytes)>> {
        let mut rows = self.iterate(ROWS)?;
        rows.seek_for_prev(family::row(number, offset));
        if let Some((key, row)) = rows.item() {
            let (found, offset) = family::row_of(key)?;
            let row = (found == number).then(|| (offset, Bytes::copy_from_slice(row)));
            return Ok(row);
        }
        rows.status().map_err(sort).map(|()| None)
    }

    pub(crate) fn staged(&self, note: &[u8]) -> Result<Staged> {
        let (number, millis) = family::noted(note)?;
        Ok(Staged {
            number,
            offset: self.end(number)?,
            millis,
        })
    }
}
