//! Rows, which store the bytes of blobs and ingests. A row has at most [`ROW_SIZE`] bytes.

use std::ops::RangeInclusive;

use cas_kv::Failed;
use redb::{ReadableTable, StorageError};

use crate::error::broken;
use crate::tables::Tables;

/// Maximum size of a row in bytes.
///
/// redb stores each large row, with a small header, in space whose size is a power of two. A row
/// whose own size is a power of two would leave half of that space unused.
pub(crate) const ROW_SIZE: usize = (256 << 10) - 512;
/// Maximum size in bytes of a blob that is stored inline, in its entry. With its bytes in a row,
/// storing or removing such a blob would write one more page. Entries of adjacent digests share
/// pages, so removing them together is cheap.
pub(crate) const INLINE_MAX: usize = 512;
/// Maximum number of rows that [`Tables::remove_some_rows`] removes. The rest is left to later
/// transactions, so that other transactions do not wait long.
const REMOVE_ROWS: usize = 64;
/// Maximum number of rows that one transaction moves.
const MOVE_ROWS: usize = 4096;
/// Number of bytes after which a transaction moves no more rows.
const MOVE_BYTES: usize = 8 << 20;

/// Returns the keys of all rows of one blob or ingest. Each of them begins with `number`.
fn all(number: u64) -> RangeInclusive<(u64, u64)> {
    (number, 0)..=(number, u64::MAX)
}

impl Tables<'_> {
    /// Removes the rows of the blob with the row number `number`. If there are many, removes only
    /// some of them, and adds the row number to the table `doomed` for
    /// [`Tables::finish_removal`]. Returns whether rows may remain.
    pub(crate) fn remove_all_rows(
        &mut self,
        number: u64,
        bytes: u64,
    ) -> Result<bool, StorageError> {
        // The only row of a small blob is removed without a search.
        let first = self.rows.remove((number, 0))?;
        let whole = first.is_some_and(|row| row.value().len() as u64 == bytes);
        let left = !whole && self.remove_some_rows(number)?;
        if left {
            self.doomed.insert(number, bytes)?;
        }
        Ok(left)
    }

    /// Removes some of the rows that [`Tables::remove_all_rows`] left.
    pub(crate) fn finish_removal(&mut self) -> Result<(), Failed> {
        let doomed = self.doomed.first().map_err(broken)?;
        let doomed = doomed.map(|(number, _)| number.value());
        if let Some(number) = doomed
            && !self.remove_some_rows(number).map_err(broken)?
        {
            self.doomed.remove(number).map_err(broken)?;
        }
        Ok(())
    }

    /// Writes some rows again, starting at the key `first`. redb then stores these rows in the
    /// lowest free pages. Returns the key of the next row, or `None` after the last row.
    pub(crate) fn move_rows(&mut self, first: (u64, u64)) -> Result<Option<(u64, u64)>, Failed> {
        let (mut moved, mut bytes, mut next) = (Vec::new(), 0, None);
        for row in self.rows.range(first..).map_err(broken)? {
            let (key, row) = row.map_err(broken)?;
            if moved.len() == MOVE_ROWS || bytes >= MOVE_BYTES {
                next = Some(key.value());
                break;
            }
            bytes += row.value().len();
            moved.push((key.value(), row.value().to_vec()));
        }
        for (key, row) in moved {
            self.rows.insert(key, row.as_slice()).map_err(broken)?;
        }
        Ok(next)
    }

    /// Removes up to [`REMOVE_ROWS`] rows. Returns whether more may remain.
    fn remove_some_rows(&mut self, number: u64) -> Result<bool, StorageError> {
        let rows = self.rows.extract_from_if(all(number), |_, _| true)?;
        let mut removed = 0;
        for row in rows.take(REMOVE_ROWS) {
            row?;
            removed += 1;
        }
        Ok(removed == REMOVE_ROWS)
    }
}
