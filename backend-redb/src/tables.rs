//! The tables in the file, and one write transaction over them.

use cas_core::Digest;
use cas_core::records::Table as Home;
use cas_kv::{Failed, Found, Key, Rows, Staged, Transaction};
use redb::{ReadableTable, StorageError, Table, TableDefinition, WriteTransaction};

use crate::error::broken;

/// Keys from which on they may be removed in one pass, and rows for each that it may pass.
const MANY: usize = 8;
const NEAR: usize = 4;

/// Numbers that the store keeps of itself.
pub(crate) const META: TableDefinition<'static, &str, u64> = TableDefinition::new("cas");
/// Blobs.
pub(crate) const BLOBS: TableDefinition<'static, &[u8], Entry> = TableDefinition::new("content");
/// Bytes, by the number of their blob and their offset in it.
pub(crate) const ROWS: TableDefinition<'static, (u64, u64), &[u8]> = TableDefinition::new("rows");
/// Ingests that have rows.
pub(crate) const INGESTS: TableDefinition<'static, &str, Noted> = TableDefinition::new("ingests");
/// Numbers whose rows are to go, with the bytes in them.
pub(crate) const DOOMED: TableDefinition<'static, u64, u64> = TableDefinition::new("doomed");

/// A blob: its size, its number, and its bytes where they are few; others are in rows.
pub(crate) type Entry = (u64, u64, &'static [u8]);
/// An ingest: the number of its rows, the bytes in them, and when it last grew, in milliseconds
/// since 1970.
pub(crate) type Noted = (u64, u64, u64);
/// A record: its revision and its value.
pub(crate) type Value = (u64, &'static [u8]);

/// The table of the records of one kind; keys are text, but an engine that knows checks it at
/// every comparison.
pub(crate) const fn records(kind: Home) -> TableDefinition<'static, &'static [u8], Value> {
    TableDefinition::new(kind.name())
}

/// What an entry says.
pub(crate) fn found((size, number, beside): (u64, u64, &[u8])) -> Found {
    Found {
        size,
        number,
        rows: match size == beside.len() as u64 {
            true => Rows::Beside,
            false => Rows::Many,
        },
    }
}

/// What a note says.
pub(crate) fn staged((number, offset, millis): Noted) -> Staged {
    Staged {
        number,
        offset,
        millis,
    }
}

/// The tables, open in one write transaction.
pub(crate) struct Tables<'a> {
    meta: Table<'a, &'static str, u64>,
    blobs: Table<'a, &'static [u8], Entry>,
    pub(crate) rows: Table<'a, (u64, u64), &'static [u8]>,
    ingests: Table<'a, &'static str, Noted>,
    pub(crate) doomed: Table<'a, u64, u64>,
    records: [Table<'a, &'static [u8], Value>; Home::ALL.len()],
}

impl<'a> Tables<'a> {
    /// Opens them, and makes those that are absent.
    pub(crate) fn open(tx: &'a WriteTransaction) -> Result<Self, Failed> {
        let [blobs, images, snapshots, leases] =
            Home::ALL.map(|kind| tx.open_table(records(kind)).map_err(broken));
        Ok(Tables {
            meta: tx.open_table(META).map_err(broken)?,
            blobs: tx.open_table(BLOBS).map_err(broken)?,
            rows: tx.open_table(ROWS).map_err(broken)?,
            ingests: tx.open_table(INGESTS).map_err(broken)?,
            doomed: tx.open_table(DOOMED).map_err(broken)?,
            records: [blobs?, images?, snapshots?, leases?],
        })
    }

    /// The records of one kind.
    fn records(&mut self, kind: Home) -> &mut Table<'a, &'static [u8], Value> {
        &mut self.records[kind as usize]
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

    fn find(&mut self, digest: &Digest) -> Result<Option<Found>, Failed> {
        let entry = self.blobs.get(Key::of(digest).bytes()).map_err(broken)?;
        Ok(entry.map(|entry| found(entry.value())))
    }

    fn enter(&mut self, digest: &Digest, found: Found, beside: &[u8]) -> Result<(), Failed> {
        let entry = (found.size, found.number, beside);
        let key = Key::of(digest);
        self.blobs.insert(key.bytes(), entry).map_err(broken)?;
        Ok(())
    }

    fn leave(&mut self, digests: &[&Digest]) -> Result<(), Failed> {
        let keys: Vec<Key> = digests.iter().map(|digest| Key::of(digest)).collect();
        let keys: Vec<&[u8]> = keys.iter().map(Key::bytes).collect();
        remove_all(&mut self.blobs, &keys).map_err(broken)
    }

    fn write(&mut self, number: u64, offset: u64, row: &[u8]) -> Result<(), Failed> {
        self.rows.insert((number, offset), row).map_err(broken)?;
        Ok(())
    }

    fn erase(&mut self, found: Found) -> Result<bool, Failed> {
        self.remove_rows(found.number, found.size).map_err(broken)
    }

    fn note(&mut self, key: &str, staged: Staged) -> Result<(), Failed> {
        let noted = (staged.number, staged.offset, staged.millis);
        self.ingests.insert(key, noted).map_err(broken)?;
        Ok(())
    }

    fn forget(&mut self, key: &str) -> Result<Option<Staged>, Failed> {
        let noted = self.ingests.remove(key).map_err(broken)?;
        Ok(noted.map(|noted| staged(noted.value())))
    }

    fn revisions(&mut self, table: Home, keys: &[&str]) -> Result<Vec<Option<u64>>, Failed> {
        let records = self.records(table);
        let revision = |key: &&str| {
            let found = records.get(key.as_bytes()).map_err(broken)?;
            Ok(found.map(|found| found.value().0))
        };
        keys.iter().map(revision).collect()
    }

    fn put(&mut self, table: Home, key: &str, revision: u64, value: &[u8]) -> Result<(), Failed> {
        let table = self.records(table);
        let put = table.insert(key.as_bytes(), (revision, value));
        put.map_err(broken).map(|_| ())
    }

    fn delete(&mut self, table: Home, keys: &[&str]) -> Result<(), Failed> {
        let keys: Vec<&[u8]> = keys.iter().map(|key| key.as_bytes()).collect();
        remove_all(self.records(table), &keys).map_err(broken)
    }
}

/// Removes keys: those that are in order and neighbours in one pass, which balances the tree once
/// and not for each.
fn remove_all<V: redb::Value + 'static>(
    table: &mut Table<'_, &'static [u8], V>,
    keys: &[&[u8]],
) -> Result<(), StorageError> {
    if !are_neighbours(table, keys)? {
        return (keys.iter()).try_for_each(|key| table.remove(key).map(drop));
    }
    let mut wanted = keys.iter().copied().peekable();
    table.retain_in::<&[u8], _>(keys[0]..=keys[keys.len() - 1], |key, _| {
        while wanted.next_if(|wanted| *wanted < key).is_some() {}
        wanted.peek() != Some(&key)
    })
}

/// Whether many keys are in order, with few others between them.
fn are_neighbours<V: redb::Value + 'static>(
    table: &Table<'_, &'static [u8], V>,
    keys: &[&[u8]],
) -> Result<bool, StorageError> {
    let (Some(first), Some(last)) = (keys.first(), keys.last()) else {
        return Ok(false);
    };
    if keys.len() < MANY || !keys.is_sorted() {
        return Ok(false);
    }
    let between = table.range::<&[u8]>(*first..=*last)?;
    Ok(between.take(NEAR * keys.len() + 1).count() <= NEAR * keys.len())
}
