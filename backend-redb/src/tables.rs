//! The tables in the file, and one write transaction over them.

use cas_core::records::Table as Home;
use cas_core::{Algorithm, Digest};
use redb::{
    ReadOnlyTable, ReadTransaction, ReadableTable, Table, TableDefinition, WriteTransaction,
};

use crate::error::Failed;

/// What the store says of itself: its format, and the first number that nobody was given.
pub(crate) const META: TableDefinition<'static, &str, u64> = TableDefinition::new("cas");
/// The key of the format in [`META`].
pub(crate) const FORMAT: &str = "format";
const NUMBERS: &str = "numbers";
/// Numbers that one opening takes at a time; what it does not use is lost.
const BLOCK: u64 = 1 << 32;

const BLOBS: TableDefinition<'static, &[u8], Entry> = TableDefinition::new("content");
const ROWS: TableDefinition<'static, (u64, u64), &[u8]> = TableDefinition::new("rows");
const INGESTS: TableDefinition<'static, &str, Staged> = TableDefinition::new("ingests");
const DOOMED: TableDefinition<'static, u64, u64> = TableDefinition::new("doomed");

/// A blob: its size, its number, and its bytes where they are few; others are in rows.
pub(crate) type Entry = (u64, u64, &'static [u8]);
/// An ingest: the number of its rows, the bytes in them, and when it last grew, in milliseconds
/// since 1970.
pub(crate) type Staged = (u64, u64, u64);
/// A record: its revision and its value.
type Value = (u64, &'static [u8]);

/// The table of the records of one kind; keys are text, but an engine that knows checks it at
/// every comparison.
const fn records(kind: Home) -> TableDefinition<'static, &'static [u8], Value> {
    TableDefinition::new(kind.name())
}

/// The key of a blob: its algorithm, then its hash, so that keys sort as digests do.
pub(crate) struct Key {
    bytes: [u8; 65],
    length: usize,
}

impl Key {
    /// The key of `digest`.
    pub(crate) fn of(digest: &Digest) -> Self {
        let hash = digest.as_bytes();
        let mut bytes = [0; 65];
        bytes[0] = match digest.algorithm() {
            Algorithm::Sha256 => 1,
            Algorithm::Sha512 => 2,
        };
        bytes[1..=hash.len()].copy_from_slice(hash);
        Key {
            bytes,
            length: 1 + hash.len(),
        }
    }

    /// The key as the engine takes it.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }

    /// The digest of a key; nothing when it is none.
    pub(crate) fn digest(key: &[u8]) -> Option<Digest> {
        let (algorithm, hash) = key.split_first()?;
        let algorithm = match algorithm {
            1 => Algorithm::Sha256,
            2 => Algorithm::Sha512,
            _ => return None,
        };
        Digest::from_bytes(algorithm, hash)
    }
}

/// Numbers that are never given twice, for the rows and the version of a blob and for revisions.
///
/// A block of them is taken durably before any is used, so that none comes again even where what
/// it was given to was lost.
#[derive(Clone, Copy, Default)]
pub(crate) struct Numbers {
    next: u64,
    end: u64,
}

/// The tables, open in one write transaction.
pub(crate) struct Tables<'a> {
    meta: Table<'a, &'static str, u64>,
    pub(crate) blobs: Table<'a, &'static [u8], Entry>,
    /// Bytes, by the number of their blob and their offset in it.
    pub(crate) rows: Table<'a, (u64, u64), &'static [u8]>,
    /// Ingests that have rows.
    pub(crate) ingests: Table<'a, &'static str, Staged>,
    /// Numbers whose rows are to go, with the bytes in them.
    pub(crate) doomed: Table<'a, u64, u64>,
    records: [Table<'a, &'static [u8], Value>; Home::ALL.len()],
    /// Numbers of this opening.
    pub(crate) numbers: Numbers,
    /// Whether a block of numbers was taken.
    pub(crate) took_numbers: bool,
}

impl<'a> Tables<'a> {
    /// Opens them, and makes those that are absent.
    pub(crate) fn open(tx: &'a WriteTransaction, numbers: Numbers) -> Result<Self, Failed> {
        let [blobs, images, snapshots, leases] = Home::ALL.map(|kind| tx.open_table(records(kind)));
        Ok(Tables {
            meta: tx.open_table(META)?,
            blobs: tx.open_table(BLOBS)?,
            rows: tx.open_table(ROWS)?,
            ingests: tx.open_table(INGESTS)?,
            doomed: tx.open_table(DOOMED)?,
            records: [blobs?, images?, snapshots?, leases?],
            numbers,
            took_numbers: false,
        })
    }

    /// The records of one kind.
    pub(crate) fn records(&mut self, kind: Home) -> &mut Table<'a, &'static [u8], Value> {
        &mut self.records[kind as usize]
    }

    /// A number that was never given before.
    pub(crate) fn number(&mut self) -> Result<u64, Failed> {
        if self.numbers.next == self.numbers.end {
            let first = self.meta.get(NUMBERS)?.map_or(1, |first| first.value());
            self.meta.insert(NUMBERS, first + BLOCK)?;
            self.numbers = Numbers {
                next: first,
                end: first + BLOCK,
            };
            self.took_numbers = true;
        }
        self.numbers.next += 1;
        Ok(self.numbers.next - 1)
    }

    /// Writes what the store is into a file that is new.
    pub(crate) fn set_format(&mut self, format: u64) -> Result<(), Failed> {
        self.meta.insert(FORMAT, format)?;
        Ok(())
    }
}

/// The tables as one commit left them, for readers.
pub(crate) struct View {
    pub(crate) blobs: ReadOnlyTable<&'static [u8], Entry>,
    pub(crate) rows: ReadOnlyTable<(u64, u64), &'static [u8]>,
    pub(crate) ingests: ReadOnlyTable<&'static str, Staged>,
    pub(crate) doomed: ReadOnlyTable<u64, u64>,
    records: [ReadOnlyTable<&'static [u8], Value>; Home::ALL.len()],
}

impl View {
    /// Opens them.
    pub(crate) fn open(tx: &ReadTransaction) -> Result<Self, redb::TableError> {
        let [blobs, images, snapshots, leases] = Home::ALL.map(|kind| tx.open_table(records(kind)));
        Ok(View {
            blobs: tx.open_table(BLOBS)?,
            rows: tx.open_table(ROWS)?,
            ingests: tx.open_table(INGESTS)?,
            doomed: tx.open_table(DOOMED)?,
            records: [blobs?, images?, snapshots?, leases?],
        })
    }

    /// The records of one kind.
    pub(crate) fn records(&self, kind: Home) -> &ReadOnlyTable<&'static [u8], Value> {
        &self.records[kind as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_sort_as_digests_do_and_come_back() {
        let mut digests: Vec<Digest> = (0..50_u8)
            .flat_map(|n| Algorithm::ALL.map(|algorithm| Digest::of(algorithm, &[n])))
            .collect();
        digests.sort();
        let keys: Vec<Key> = digests.iter().map(Key::of).collect();
        assert!(keys.is_sorted_by_key(Key::bytes));
        let back = keys.iter().map(|key| Key::digest(key.bytes()));
        assert!(back.eq(digests.into_iter().map(Some)));
        assert_eq!(Key::digest(b""), None);
        assert_eq!(Key::digest(b"\x01short"), None);
    }
}
