//! The database and its column families.

use std::path::Path;

use bytes::Bytes;
use cas_core::Result;
use cas_kv::{IngestEntry, OpenMode};
use rocksdb::{ColumnFamily, DB, DBPinnableSlice, DBRawIterator, Options, ReadOptions};

use crate::error::{classify, corrupt};
use crate::family::{self, ROWS};
use crate::head::SavedHead;
use crate::options::Tuning;
use crate::side::SideDir;

/// An open database.
pub(crate) struct Database {
    pub(crate) db: DB,
    /// The options of the database, which collect its statistics.
    pub(crate) options: Options,
    /// Options for reads of rows, without RocksDB's checksums: readers check the bytes of a blob
    /// against its digest, as with every store. So a blob whose rows are damaged can be replaced.
    pub(crate) unchecked: ReadOptions,
    /// Copies the manifest after `db` is closed, because background work changes the manifest until
    /// then. `None` if the database is being created, or only read.
    _head: Option<SavedHead>,
    /// The directory in which a damaged database is open, if it cannot be opened in its own
    /// directory.
    pub(crate) side: Option<SideDir>,
}

/// Ends background work before the close. After a full disk, RocksDB flushes to recover. A close
/// waits for this flush, but a closing database does not start the flush. Without this step, the
/// close would never end.
impl Drop for Database {
    fn drop(&mut self) {
        self.db.cancel_all_background_work(false);
    }
}

impl Database {
    /// Opens or creates the database at `path`. If the database is damaged, opens only the column
    /// families that exist.
    ///
    /// # Errors
    /// Errors of the engine.
    pub(crate) fn open(path: &Path, mode: OpenMode, tuning: Tuning) -> Result<Self> {
        let options = tuning.database(mode)?;
        let mut families = tuning.families();
        if mode == OpenMode::Damaged {
            let found = DB::list_cf(&options, path).map_err(classify)?;
            families.retain(|family| found.iter().any(|name| name == family.name()));
        }
        let db = match mode {
            OpenMode::ReadOnly | OpenMode::Damaged => {
                DB::open_cf_descriptors_read_only(&options, path, families, false)
            }
            _ => DB::open_cf_descriptors(&options, path, families),
        };
        Ok(Database {
            db: db.map_err(classify)?,
            options,
            unchecked: unchecked(),
            _head: (mode == OpenMode::Existing).then(|| SavedHead(path.to_owned())),
            side: None,
        })
    }

    /// Returns the handle of a column family.
    pub(crate) fn family(&self, name: &str) -> Result<&ColumnFamily> {
        let family = self.db.cf_handle(name);
        family.ok_or_else(|| corrupt(&format!("the column family {name} is missing")))
    }

    /// Writes everything in memory to files, and starts a new log.
    pub(crate) fn flush(&self) -> Result<()> {
        let flush = |name| self.db.flush_cf(self.family(name)?).map_err(classify);
        family::all().try_for_each(flush)
    }

    /// Returns a property of the column family of rows, in bytes.
    pub(crate) fn rows_property(&self, property: &str) -> Result<u64> {
        let size = self.db.property_int_value_cf(self.family(ROWS)?, property);
        Ok(size.map_err(classify)?.unwrap_or(0))
    }

    pub(crate) fn get(&self, family: &str, key: &[u8]) -> Result<Option<DBPinnableSlice<'_>>> {
        let found = self.db.get_pinned_cf(self.family(family)?, key);
        found.map_err(classify)
    }

    /// Returns the row with this number that starts at `offset`, or `None` if there is none.
    pub(crate) fn row(&self, number: u64, offset: u64) -> Result<Option<DBPinnableSlice<'_>>> {
        let (rows, key) = (self.family(ROWS)?, family::row_key(number, offset));
        let found = self.db.get_pinned_cf_opt(rows, key, &self.unchecked);
        found.map_err(classify)
    }

    pub(crate) fn iterate(&self, family: &str) -> Result<DBRawIterator<'_>> {
        Ok(self.db.raw_iterator_cf(self.family(family)?))
    }

    /// Returns the offset at which the rows of an ingest end. A crash loses only the last rows, so
    /// there are no gaps before this offset.
    pub(crate) fn end_of_rows(&self, number: u64) -> Result<u64> {
        Ok(match self.last_row(number, u64::MAX)? {
            Some((offset, row)) => offset + row.len() as u64,
            None => 0,
        })
    }

    /// Returns the offset and the bytes of the last row with this number that starts at or before
    /// `offset`, or `None` if there is none.
    pub(crate) fn last_row(&self, number: u64, offset: u64) -> Result<Option<(u64, Bytes)>> {
        let rows = self.family(ROWS)?;
        let mut rows = self.db.raw_iterator_cf_opt(rows, unchecked());
        rows.seek_for_prev(family::row_key(number, offset));
        if let Some((key, row)) = rows.item() {
            let (found, offset) = family::decode_row_key(key)?;
            let row = (found == number).then(|| (offset, Bytes::copy_from_slice(row)));
            return Ok(row);
        }
        rows.status().map_err(classify).map(|()| None)
    }

    /// Returns the entry of an ingest from its value in the column family.
    pub(crate) fn ingest_entry(&self, value: &[u8]) -> Result<IngestEntry> {
        let (number, millis) = family::decode_ingest(value)?;
        Ok(IngestEntry {
            number,
            offset: self.end_of_rows(number)?,
            millis,
        })
    }
}

/// Returns options for reads of rows, without RocksDB's checksums.
fn unchecked() -> ReadOptions {
    let mut options = ReadOptions::default();
    options.set_verify_checksums(false);
    options
}
