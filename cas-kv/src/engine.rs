//! What an engine brings.

use std::sync::Arc;

use bytes::Bytes;
use cas_core::records::Table;
use cas_core::{Digest, Error, Result};

use crate::space::Space;

/// An open database. Dropping it closes the file and gives the place free.
///
/// What waits for a disk is called where it may block; [`Engine::view`] and what a [`View`] does is
/// quick, but for long reads.
pub trait Engine: Send + Sync + 'static {
    /// Most bytes of a row, which decides how much a read of a few bytes costs.
    fn row(&self) -> usize;

    /// Most bytes of a blob that are kept beside its size and not in a row.
    fn beside(&self) -> usize;

    /// Bytes of the disk that a blob of so many bytes takes.
    fn footprint(&self, bytes: u64) -> u64 {
        bytes
    }

    /// Bytes that it has taken and will write once more.
    ///
    /// # Errors
    /// Those of the engine.
    fn owed(&self) -> Result<u64> {
        Ok(0)
    }

    /// What is there now; held no longer than a call.
    ///
    /// # Errors
    /// Those of the engine.
    fn view(&self) -> Result<Arc<dyn View>>;

    /// Makes the changes of `work` in one transaction, which is synced where `work` answers true.
    /// One runs at a time.
    ///
    /// # Errors
    /// What `work` failed with, or the engine; nothing is changed then.
    fn transact(
        &self,
        work: &mut dyn FnMut(&mut dyn Transaction) -> Result<bool, Failed>,
    ) -> Result<(), Failed>;

    /// Makes staged rows durable, as far as a transaction that enters their blob does not.
    ///
    /// # Errors
    /// Those of the engine.
    fn settle(&self) -> Result<()> {
        Ok(())
    }

    /// Makes all that is there durable.
    ///
    /// # Errors
    /// Those of the engine.
    fn sync(&self) -> Result<()>;

    /// Ends removals of rows that were left, a few at a time.
    ///
    /// # Errors
    /// Those of the engine.
    fn reap(&self) -> Result<()> {
        Ok(())
    }

    /// Gives the file system back what removals freed, where that is worth its work.
    ///
    /// # Errors
    /// Those of the engine.
    fn compact(&self) -> Result<()>;

    /// The space around it.
    fn space(&self) -> &Space;
}

/// A blob that is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    /// Its length in bytes.
    pub size: u64,
    /// The number of its rows, and its version.
    pub number: u64,
    /// Where its bytes are.
    pub rows: Rows,
}

/// Where the bytes of a blob are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rows {
    /// Beside its size.
    Beside,
    /// In one row.
    One,
    /// In any number of rows.
    Many,
}

/// An ingest that has rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Staged {
    /// The number of its rows.
    pub number: u64,
    /// Bytes in them.
    pub offset: u64,
    /// When it last grew, in milliseconds since 1970.
    pub millis: u64,
}

impl Found {
    /// Whether there are rows.
    pub(crate) fn in_rows(&self) -> bool {
        self.rows != Rows::Beside
    }
}

impl Staged {
    /// The rows, as those of a blob.
    pub(crate) fn rows(&self) -> Found {
        Found {
            size: self.offset,
            number: self.number,
            rows: Rows::Many,
        }
    }
}

/// The tables as one commit left them. A record is its revision and its value.
pub trait View: Send + Sync {
    /// A number under its name.
    ///
    /// # Errors
    /// As all of these: those of the engine, `Corrupt` for what is no such row.
    fn meta(&self, name: &str) -> Result<Option<u64>>;
    /// A blob.
    fn find(&self, digest: &Digest) -> Result<Option<Found>>;
    /// A blob, and the bytes that are beside its size.
    fn open(&self, digest: &Digest) -> Result<Option<(Found, Bytes)>>;
    /// At most `limit` blobs after one, in the order of digests.
    fn list(&self, after: Option<&Digest>, limit: usize) -> Result<Vec<(Digest, Found)>>;
    /// Up to `length` bytes of the rows of a number; fewer where rows are missing or end.
    fn read(&self, number: u64, offset: u64, length: usize) -> Result<Bytes>;
    /// An ingest.
    fn ingest(&self, key: &str) -> Result<Option<Staged>>;
    /// All ingests.
    fn ingests(&self) -> Result<Vec<(String, Staged)>>;
    /// A record.
    fn record(&self, table: Table, key: &str) -> Result<Option<(u64, Bytes)>>;
    /// At most `limit` records after a key and under a prefix, in the order of keys.
    fn records(
        &self,
        table: Table,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<(String, u64, Bytes)>>;
}

/// The tables in a transaction, which sees what it wrote.
pub trait Transaction {
    /// A number under its name.
    ///
    /// # Errors
    /// As all of these: `Broken`, those of the engine.
    fn meta(&mut self, name: &str) -> Result<Option<u64>, Failed>;
    /// Sets a number under a name.
    fn set_meta(&mut self, name: &str, number: u64) -> Result<(), Failed>;
    /// A blob.
    fn find(&mut self, digest: &Digest) -> Result<Option<Found>, Failed>;
    /// Blobs, in the order of the digests.
    fn find_all(&mut self, digests: &[&Digest]) -> Result<Vec<Option<Found>>, Failed> {
        digests.iter().map(|digest| self.find(digest)).collect()
    }
    /// Enters a blob, with its bytes where they are beside its size.
    fn enter(&mut self, digest: &Digest, found: Found, beside: &[u8]) -> Result<(), Failed>;
    /// Takes the entries of blobs away.
    fn leave(&mut self, digests: &[&Digest]) -> Result<(), Failed>;
    /// Adds a row.
    fn write(&mut self, number: u64, offset: u64, row: &[u8]) -> Result<(), Failed>;
    /// Adds a row of an ingest; a crash may lose it and those after it.
    fn stage(&mut self, number: u64, offset: u64, row: &[u8]) -> Result<(), Failed> {
        self.write(number, offset, row)
    }
    /// Removes the rows of a blob that has them; true where some are left for [`Engine::reap`].
    fn erase(&mut self, found: Found) -> Result<bool, Failed>;
    /// Notes an ingest.
    fn note(&mut self, key: &str, staged: Staged) -> Result<(), Failed>;
    /// Forgets an ingest.
    fn forget(&mut self, key: &str) -> Result<Option<Staged>, Failed>;
    /// Revisions of records, in the order of the keys.
    fn revisions(&mut self, table: Table, keys: &[&str]) -> Result<Vec<Option<u64>>, Failed>;
    /// Writes a record.
    fn put(&mut self, table: Table, key: &str, revision: u64, value: &[u8]) -> Result<(), Failed>;
    /// Deletes records.
    fn delete(&mut self, table: Table, keys: &[&str]) -> Result<(), Failed>;
}

/// Why a change was not made.
#[derive(Debug)]
pub enum Failed {
    /// It does not fit what is there, and has changed nothing: others in its transaction go on.
    Refused(Error),
    /// The engine failed in the middle: the transaction is lost.
    Broken(Error),
}

impl From<Failed> for Error {
    fn from(failed: Failed) -> Self {
        match failed {
            Failed::Refused(error) | Failed::Broken(error) => error,
        }
    }
}
