//! A write transaction that allocates numbers for the rows and versions of blobs and for revisions
//! of records.

use crate::engine::{Failed, Transaction};

/// The key, in the table `meta`, of the first number that is not reserved.
pub(crate) const NUMBERS: &str = "numbers";
/// The key, in the table `meta`, of the number of removed bytes that no compaction has given back.
pub(crate) const REMOVED: &str = "removed";
/// How many numbers one write reserves. Numbers that are not used before the store closes are
/// skipped.
const BLOCK: u64 = 1 << 32;

/// Numbers for the rows and versions of blobs and for revisions of records. No number is
/// allocated twice.
///
/// The transaction that uses the first number of a block also reserves the block, and is synced. So
/// if a crash loses a later transaction, the numbers that it used are not allocated again.
#[derive(Clone, Copy, Default)]
pub(crate) struct Numbers {
    next: u64,
    end: u64,
}

/// A transaction of the engine, and the numbers that it may allocate.
pub(crate) struct Tx<'a> {
    pub(crate) inner: &'a mut dyn Transaction,
    pub(crate) numbers: Numbers,
    /// Whether a block of numbers was reserved, so the transaction must be synced.
    pub(crate) reserved: bool,
    /// Number of bytes that the transaction removes. They are counted in the table `meta` by the
    /// same transaction, so a kill before the compaction does not lose the count.
    pub(crate) removed: u64,
    pub(crate) row_size: usize,
    pub(crate) inline_max: usize,
}

impl Tx<'_> {
    /// Adds the removed bytes to the count in the table `meta`.
    pub(crate) fn count_removed(&mut self) -> Result<(), Failed> {
        if self.removed > 0 {
            let before = self.inner.meta(REMOVED)?.unwrap_or(0);
            let removed = before.saturating_add(self.removed);
            self.inner.set_meta(REMOVED, removed)?;
        }
        Ok(())
    }

    /// Returns a number that was never allocated before.
    pub(crate) fn next_number(&mut self) -> Result<u64, Failed> {
        if self.numbers.next == self.numbers.end {
            let first = self.inner.meta(NUMBERS)?.unwrap_or(1);
            self.inner.set_meta(NUMBERS, first + BLOCK)?;
            self.numbers = Numbers {
                next: first,
                end: first + BLOCK,
            };
            self.reserved = true;
        }
        self.numbers.next += 1;
        Ok(self.numbers.next - 1)
    }

    /// Writes `data` at `offset` of a blob, split into rows.
    pub(crate) fn write_rows(
        &mut self,
        number: u64,
        offset: u64,
        data: &[u8],
    ) -> Result<(), Failed> {
        let offsets = (offset..).step_by(self.row_size);
        let mut rows = offsets.zip(data.chunks(self.row_size));
        rows.try_for_each(|(offset, row)| self.inner.write_row(number, offset, row))
    }

    /// Writes `data` at `offset` of an ingest, split into rows.
    pub(crate) fn stage_rows(
        &mut self,
        number: u64,
        offset: u64,
        data: &[u8],
    ) -> Result<(), Failed> {
        let offsets = (offset..).step_by(self.row_size);
        let mut rows = offsets.zip(data.chunks(self.row_size));
        rows.try_for_each(|(offset, row)| self.inner.stage_row(number, offset, row))
    }
}
