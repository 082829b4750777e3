//! One transaction, and the numbers that it gives.

use crate::engine::{Failed, Transaction};

/// The name of the first number that nobody was given.
const NUMBERS: &str = "numbers";
/// Numbers that one opening takes at a time; what it does not use is lost.
const BLOCK: u64 = 1 << 32;

/// Numbers that are never given twice, for the rows and the version of a blob and for revisions.
///
/// A block of them is taken durably before any is used, so that none comes again even where what
/// it was given to was lost.
#[derive(Clone, Copy, Default)]
pub(crate) struct Numbers {
    next: u64,
    end: u64,
}

/// A transaction, and the numbers it may give.
pub(crate) struct Tables<'a> {
    pub(crate) tables: &'a mut dyn Transaction,
    pub(crate) numbers: Numbers,
    pub(crate) took_numbers: bool,
    pub(crate) row: usize,
    pub(crate) beside: usize,
}

impl Tables<'_> {
    /// A number that was never given before.
    pub(crate) fn number(&mut self) -> Result<u64, Failed> {
        if self.numbers.next == self.numbers.end {
            let first = self.tables.meta(NUMBERS)?.unwrap_or(1);
            self.tables.set_meta(NUMBERS, first + BLOCK)?;
            self.numbers = Numbers {
                next: first,
                end: first + BLOCK,
            };
            self.took_numbers = true;
        }
        self.numbers.next += 1;
        Ok(self.numbers.next - 1)
    }

    /// Adds `data` at `offset`, in as many rows as it needs.
    pub(crate) fn write(&mut self, number: u64, offset: u64, data: &[u8]) -> Result<(), Failed> {
        let offsets = (offset..).step_by(self.row);
        let mut rows = offsets.zip(data.chunks(self.row));
        rows.try_for_each(|(offset, row)| self.tables.write(number, offset, row))
    }

    /// Adds `data` at `offset` to an ingest.
    pub(crate) fn stage(&mut self, number: u64, offset: u64, data: &[u8]) -> Result<(), Failed> {
        let offsets = (offset..).step_by(self.row);
        let mut rows = offsets.zip(data.chunks(self.row));
        rows.try_for_each(|(offset, row)| self.tables.stage(number, offset, row))
    }
}
