//! The interface between a [`KvStore`](crate::KvStore) and an embedded key-value engine.

use std::sync::Arc;

use bytes::Bytes;
use cas_core::records::Table;
use cas_core::{Digest, Error, Result};

use crate::space::Space;

/// An open database. Dropping it closes the database.
///
/// Methods that may wait for the disk are called from threads that may block, with one exception:
/// if an ingest is dropped while some of its bytes are only in memory, [`Engine::transact`] is
/// called from the thread that drops the ingest. [`Engine::view`] and the methods of [`View`] are
/// called from any thread, so they must be fast. Only calls that return much data may take longer.
pub trait Engine: Send + Sync + 'static {
    /// Returns the maximum size in bytes of a row. A row is a piece of a blob or of an ingest. A
    /// read of one byte may read a whole row.
    fn row_size(&self) -> usize;

    /// Returns the maximum size in bytes of a blob that is stored inline, in its entry, instead of
    /// in rows.
    fn inline_max(&self) -> usize;

    /// Returns how many bytes a blob of `bytes` bytes takes on the disk. The default is `bytes`.
    fn footprint(&self, bytes: u64) -> u64 {
        bytes
    }

    /// Returns the number of bytes that the engine has accepted and will write to its files later,
    /// for example bytes in memory that wait for a flush. The default is 0.
    ///
    /// # Errors
    /// Errors of the engine.
    fn pending_bytes(&self) -> Result<u64> {
        Ok(0)
    }

    /// Returns a view of the current state of the tables. Callers drop the view at the end of one
    /// operation.
    ///
    /// # Errors
    /// Errors of the engine.
    fn view(&self) -> Result<Arc<dyn View>>;

    /// Applies the changes of `work` in one transaction, which is synced if `work` returns `true`.
    /// The caller runs one transaction at a time.
    ///
    /// # Errors
    /// If `work` fails, returns its error, and nothing is changed. If the engine fails, returns the
    /// error of the engine. Some changes may then have been made, and the caller must open the
    /// database again.
    fn transact(
        &self,
        work: &mut dyn FnMut(&mut dyn Transaction) -> Result<bool, Failed>,
    ) -> Result<(), Failed>;

    /// Makes durable the rows that [`Transaction::stage_row`] wrote. The default does nothing. It
    /// suits an engine in which the synced transaction that inserts a blob also makes these rows
    /// durable.
    ///
    /// # Errors
    /// Errors of the engine.
    fn flush_staged(&self) -> Result<()> {
        Ok(())
    }

    /// Makes all committed changes durable, except that rows of [`Transaction::stage_row`] may need
    /// [`Engine::flush_staged`].
    ///
    /// # Errors
    /// Errors of the engine.
    fn sync(&self) -> Result<()>;

    /// Removes, in small transactions, the rows that [`Transaction::remove_rows`] left. The default
    /// does nothing. It suits an engine that leaves no rows.
    ///
    /// # Errors
    /// Errors of the engine.
    fn finish_removals(&self) -> Result<()> {
        Ok(())
    }

    /// Gives the space of removed rows back to the file system, if the amount justifies the work.
    /// `removed` is the number of bytes that this process and earlier ones have removed since the
    /// last compaction. Blobs that were stored later may already use the space of removed bytes.
    /// Returns whether the database was compacted.
    ///
    /// # Errors
    /// Errors of the engine.
    fn compact(&self, removed: u64) -> Result<bool>;

    /// Checks the parts of the database files that the methods of [`View`] do not check, except the
    /// bytes of blobs. The default does nothing. It suits an engine whose files have no such parts.
    ///
    /// # Errors
    /// `Corrupt` if a file is damaged; errors of the engine.
    fn check_files(&self) -> Result<()> {
        Ok(())
    }

    /// Returns whether the engine opened a damaged database with its [`Head`](crate::Head), which
    /// is a copy of the part that an engine reads first. The copy was made when the database was
    /// last closed, so later changes may be missing. The default is `false`.
    fn reads_head(&self) -> bool {
        false
    }

    /// Returns the disk space accounting of this database.
    fn space(&self) -> &Space;
}

/// The entry of a stored blob.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlobEntry {
    /// Length of the blob in bytes.
    pub size: u64,
    /// The number that identifies the rows of the blob. It is also the version of the blob.
    pub number: u64,
    /// Where the bytes of the blob are.
    pub rows: Rows,
}

/// Where the bytes of a blob are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rows {
    /// In the entry of the blob.
    Inline,
    /// In one row.
    One,
    /// In any number of rows.
    Many,
}

/// The entry of an ingest that has rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IngestEntry {
    /// The number that identifies the rows of the ingest.
    pub number: u64,
    /// Number of bytes in these rows.
    pub offset: u64,
    /// Time of the last write, in milliseconds since 1970.
    pub millis: u64,
}

impl BlobEntry {
    /// The entry that [`View::find_blob`] and [`Transaction::find_blob`] return in place of an
    /// entry that cannot be read. It has no bytes, and a number that is never allocated. A job that
    /// has the bytes of the blob finds the wrong size, removes the entry like any other damaged
    /// blob, and stores the blob again.
    pub const UNREADABLE: Self = BlobEntry {
        size: 0,
        number: 0,
        rows: Rows::Inline,
    };

    /// Returns whether the entry could be read.
    pub(crate) fn is_readable(&self) -> bool {
        self.number != Self::UNREADABLE.number
    }

    /// Returns whether the bytes are in rows.
    pub(crate) fn in_rows(&self) -> bool {
        self.rows != Rows::Inline
    }
}

impl IngestEntry {
    /// Returns the entry of a blob with the rows of this ingest.
    pub(crate) fn as_blob(&self) -> BlobEntry {
        BlobEntry {
            size: self.offset,
            number: self.number,
            rows: Rows::Many,
        }
    }
}

/// Reads the tables. In some engines, all reads of a view show the state after one commit. In other
/// engines, each read shows the current state. A record is returned as its revision and its value.
/// A method that returns an `Option` returns `None` for an absent entry.
///
/// # Errors
/// Every method fails with the errors of the engine, and with `Corrupt` if stored data cannot
/// be decoded.
pub trait View: Send + Sync {
    /// Returns the number stored in the table `meta` under `name`.
    fn meta(&self, name: &str) -> Result<Option<u64>>;
    /// Returns the entry of a blob. If the entry cannot be read, and a transaction can remove and
    /// insert it nevertheless, returns [`BlobEntry::UNREADABLE`] instead of an error.
    fn find_blob(&self, digest: &Digest) -> Result<Option<BlobEntry>>;
    /// Returns the entry of a blob, and its bytes if they are inline.
    fn open_blob(&self, digest: &Digest) -> Result<Option<(BlobEntry, Bytes)>>;
    /// Returns up to `limit` blobs after the digest `after`, or from the first if `after` is
    /// `None`, sorted by digest.
    fn list_blobs(&self, after: Option<&Digest>, limit: usize) -> Result<Vec<(Digest, BlobEntry)>>;
    /// Returns up to `length` bytes at `offset` of the rows with this number. Returns fewer if a
    /// row is missing, or if the rows end earlier.
    fn read_rows(&self, number: u64, offset: u64, length: usize) -> Result<Bytes>;
    /// Returns the entry of an ingest.
    fn ingest(&self, key: &str) -> Result<Option<IngestEntry>>;
    /// Returns all ingests that have rows.
    fn ingests(&self) -> Result<Vec<(String, IngestEntry)>>;
    /// Returns a record.
    fn record(&self, table: Table, key: &str) -> Result<Option<(u64, Bytes)>>;
    /// Returns up to `limit` records whose keys start with `prefix`, sorted by key. If `after` is
    /// given, returns only records whose keys sort after it. `after` never sorts before `prefix`.
    fn records(
        &self,
        table: Table,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<(String, u64, Bytes)>>;
}

/// Reads and writes the tables in one transaction. A read includes what the transaction has written
/// before. A method that returns an `Option` returns `None` for an absent entry.
///
/// # Errors
/// Every method fails with [`Failed::Broken`] if the engine fails.
pub trait Transaction {
    /// Returns the number stored in the table `meta` under `name`.
    fn meta(&mut self, name: &str) -> Result<Option<u64>, Failed>;
    /// Stores a number in the table `meta` under `name`.
    fn set_meta(&mut self, name: &str, number: u64) -> Result<(), Failed>;
    /// Returns the entry of a blob. If the entry cannot be read, does the same as
    /// [`View::find_blob`].
    fn find_blob(&mut self, digest: &Digest) -> Result<Option<BlobEntry>, Failed>;
    /// Returns the entries of many blobs, in the order of `digests`.
    fn find_blobs(&mut self, digests: &[&Digest]) -> Result<Vec<Option<BlobEntry>>, Failed> {
        let find = |digest: &&Digest| self.find_blob(digest);
        digests.iter().map(find).collect()
    }
    /// Inserts or replaces the entry of a blob. `inline` has the bytes of the blob if they are
    /// stored in the entry, and is empty otherwise.
    fn insert_blob(
        &mut self,
        digest: &Digest,
        blob: BlobEntry,
        inline: &[u8],
    ) -> Result<(), Failed>;
    /// Removes the entries of blobs.
    fn remove_blobs(&mut self, digests: &[&Digest]) -> Result<(), Failed>;
    /// Writes a row of a blob. The row begins at the byte `offset` of the blob, and `number`
    /// identifies the rows of the blob.
    fn write_row(&mut self, number: u64, offset: u64, row: &[u8]) -> Result<(), Failed>;
    /// Writes a row of an ingest. The parameters are those of [`Transaction::write_row`]. A crash
    /// before [`Engine::flush_staged`] returns may lose the rows that were written last.
    fn stage_row(&mut self, number: u64, offset: u64, row: &[u8]) -> Result<(), Failed> {
        self.write_row(number, offset, row)
    }
    /// Removes the rows of a blob. Returns whether some rows remain for
    /// [`Engine::finish_removals`].
    fn remove_rows(&mut self, blob: BlobEntry) -> Result<bool, Failed>;
    /// Inserts or replaces the entry of an ingest.
    fn put_ingest(&mut self, key: &str, ingest: IngestEntry) -> Result<(), Failed>;
    /// Removes the entry of an ingest. Returns the removed entry, or `None` if there was none.
    fn remove_ingest(&mut self, key: &str) -> Result<Option<IngestEntry>, Failed>;
    /// Returns the revisions of records, in the order of `keys`.
    fn revisions(&mut self, table: Table, keys: &[&str]) -> Result<Vec<Option<u64>>, Failed>;
    /// Inserts or replaces a record.
    fn put_record(
        &mut self,
        table: Table,
        key: &str,
        revision: u64,
        value: &[u8],
    ) -> Result<(), Failed>;
    /// Removes records.
    fn remove_records(&mut self, table: Table, keys: &[&str]) -> Result<(), Failed>;
}

/// Why a change failed.
#[derive(Debug)]
pub enum Failed {
    /// The change conflicts with stored data, or the store cannot be written. The change wrote
    /// nothing, and other changes in the same transaction are unaffected.
    Refused(Error),
    /// The engine failed, so every change in the transaction returns an error. If the engine failed
    /// while it committed the transaction, some of the changes may have been made nevertheless.
    Broken(Error),
}

impl From<Failed> for Error {
    fn from(failed: Failed) -> Self {
        match failed {
            Failed::Refused(error) | Failed::Broken(error) => error,
        }
    }
}
