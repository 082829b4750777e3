//! One transaction: changes gathered for one write, which sees what it has gathered.

use std::collections::HashMap;

use cas_core::Digest;
use cas_core::records::Table;
use cas_kv::{Failed, Found, Key, Rows, Staged, Transaction};
use rocksdb::{DBRawIterator, WriteBatch};

use crate::database::Database;
use crate::error::broken;
use crate::family::{self, CONTENT, INGESTS, META, ROWS};

/// Milliseconds that the time of an ingest may be behind; where its rows end, they say.
const NOTED: u64 = 1000;

/// Keys from which on they are looked for by one iterator, and rows that it passes over before it
/// seeks.
const MANY: usize = 8;
const NEAR: usize = 4;

/// What changes leave of keys; nothing of one that is deleted.
type Left = HashMap<Box<[u8]>, Option<Box<[u8]>>>;

/// Changes that are not written yet.
pub(crate) struct Tables<'a> {
    db: &'a Database,
    logged: WriteBatch,
    staged: StagedRows,
    /// What the changes leave in each family, but for rows.
    left: HashMap<&'static str, Left>,
    erased: u64,
}

/// Rows that go past the log.
#[derive(Default)]
pub(crate) struct StagedRows {
    pub(crate) rows: WriteBatch,
    /// Whether they are the first of an ingest.
    pub(crate) first: bool,
}

impl<'a> Tables<'a> {
    /// No changes.
    pub(crate) fn new(db: &'a Database) -> Self {
        Tables {
            db,
            logged: WriteBatch::default(),
            staged: StagedRows::default(),
            left: HashMap::new(),
            erased: 0,
        }
    }

    /// What is to be written through the log, what past it, and the bytes of rows that go.
    pub(crate) fn end(self) -> (WriteBatch, StagedRows, u64) {
        (self.logged, self.staged, self.erased)
    }

    /// What `read` makes of the value under a key.
    fn get<T>(
        &self,
        family: &'static str,
        key: &[u8],
        read: impl FnOnce(&[u8]) -> cas_core::Result<T>,
    ) -> Result<Option<T>, Failed> {
        let read = |value: &[u8]| read(value).map_err(Failed::Broken);
        if let Some(left) = self.left(family, key) {
            return left.map(read).transpose();
        }
        let family = self.db.family(family).map_err(Failed::Broken)?;
        let found = self.db.db.get_pinned_cf(family, key).map_err(broken)?;
        found.as_deref().map(read).transpose()
    }

    /// What `read` makes of the values under keys; it is quick for many that are neighbours.
    fn get_all<T>(
        &self,
        family: &'static str,
        keys: &[&[u8]],
        read: impl Fn(&[u8]) -> cas_core::Result<T>,
    ) -> Result<Vec<Option<T>>, Failed> {
        if keys.len() < MANY {
            return keys
                .iter()
                .map(|key| self.get(family, key, &read))
                .collect();
        }
        let mut rows = self.db.iterate(family).map_err(Failed::Broken)?;
        let mut all = Vec::with_capacity(keys.len());
        for key in keys {
            let value = match self.left(family, key) {
                Some(left) => left,
                None => find(&mut rows, key).map_err(broken)?,
            };
            all.push(value.map(&read).transpose().map_err(Failed::Broken)?);
        }
        Ok(all)
    }

    /// What the changes leave under a key that they touch.
    fn left(&self, family: &str, key: &[u8]) -> Option<Option<&[u8]>> {
        let left = self.left.get(family)?.get(key)?;
        Some(left.as_deref())
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
        let left = self.left.entry(family).or_default();
        left.insert(key.into(), value);
        Ok(())
    }
}

/// The value under a key, which is mostly a few rows after the last that was looked for.
fn find<'a>(
    rows: &'a mut DBRawIterator<'_>,
    key: &[u8],
) -> Result<Option<&'a [u8]>, rocksdb::Error> {
    for _ in 0..NEAR {
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
        self.get(META, name.as_bytes(), family::number)
    }

    fn set_meta(&mut self, name: &str, number: u64) -> Result<(), Failed> {
        self.set(META, name.as_bytes(), Some(&number.to_le_bytes()))
    }

    fn find(&mut self, digest: &Digest) -> Result<Option<Found>, Failed> {
        self.get(CONTENT, Key::of(digest).bytes(), |entry| {
            Ok(family::found(entry)?.0)
        })
    }

    fn find_all(&mut self, digests: &[&Digest]) -> Result<Vec<Option<Found>>, Failed> {
        let keys: Vec<Key> = digests.iter().map(|digest| Key::of(digest)).collect();
        let keys: Vec<&[u8]> = keys.iter().map(Key::bytes).collect();
        self.get_all(CONTENT, &keys, |entry| Ok(family::found(entry)?.0))
    }

    fn enter(&mut self, digest: &Digest, found: Found, beside: &[u8]) -> Result<(), Failed> {
        let entry = family::entry(found, beside);
        self.set(CONTENT, Key::of(digest).bytes(), Some(&entry))
    }

    fn leave(&mut self, digests: &[&Digest]) -> Result<(), Failed> {
        let mut keys = digests.iter().map(|digest| Key::of(digest));
        keys.try_for_each(|key| self.set(CONTENT, key.bytes(), None))
    }

    fn write(&mut self, number: u64, offset: u64, row: &[u8]) -> Result<(), Failed> {
        let rows = self.db.family(ROWS).map_err(Failed::Broken)?;
        self.logged.put_cf(rows, family::row(number, offset), row);
        Ok(())
    }

    fn stage(&mut self, number: u64, offset: u64, row: &[u8]) -> Result<(), Failed> {
        let rows = self.db.family(ROWS).map_err(Failed::Broken)?;
        let key = family::row(number, offset);
        self.staged.rows.put_cf(rows, key, row);
        Ok(())
    }

    fn erase(&mut self, found: Found) -> Result<bool, Failed> {
        let rows = self.db.family(ROWS).map_err(Failed::Broken)?;
        let first = family::row(found.number, 0);
        match found.rows {
            // Beside its size it goes with the keys, which the engine compacts by itself.
            Rows::Beside => return Ok(false),
            Rows::One => self.logged.delete_cf(rows, first),
            Rows::Many => {
                let end = family::row(found.number, u64::MAX);
                self.logged.delete_range_cf(rows, first, end);
            }
        }
        self.erased += found.size;
        Ok(false)
    }

    fn note(&mut self, key: &str, staged: Staged) -> Result<(), Failed> {
        let known = self.get(INGESTS, key.as_bytes(), family::noted)?;
        self.staged.first |= known.is_none();
        // With nothing in the log, the rows that become a file begin no new one.
        if known.is_some_and(|(_, millis)| staged.millis.abs_diff(millis) < NOTED) {
            return Ok(());
        }
        self.set(INGESTS, key.as_bytes(), Some(&family::note(staged)))
    }

    fn forget(&mut self, key: &str) -> Result<Option<Staged>, Failed> {
        let noted = self.get(INGESTS, key.as_bytes(), family::noted)?;
        let Some((number, millis)) = noted else {
            return Ok(None);
        };
        self.set(INGESTS, key.as_bytes(), None)?;
        let offset = self.db.end(number).map_err(Failed::Broken)?;
        Ok(Some(Staged {
            number,
            offset,
            millis,
        }))
    }

    fn revisions(&mut self, table: Table, keys: &[&str]) -> Result<Vec<Option<u64>>, Failed> {
        let keys: Vec<&[u8]> = keys.iter().map(|key| key.as_bytes()).collect();
        self.get_all(table.name(), &keys, family::number)
    }

    fn put(&mut self, table: Table, key: &str, revision: u64, value: &[u8]) -> Result<(), Failed> {
        let record = family::record(revision, value);
        self.set(table.name(), key.as_bytes(), Some(&record))
    }

    fn delete(&mut self, table: Table, keys: &[&str]) -> Result<(), Failed> {
        let mut keys = keys.iter().map(|key| key.as_bytes());
        keys.try_for_each(|key| self.set(table.name(), key, None))
    }
}
