//! All blobs of a store, joined with their records.
//!
//! Content and records are both in the order of the digests, so one pass over the pages of both
//! joins them. For each range of digests, the content is read before the records. A job writes the
//! record of a blob before it publishes the blob, or in the same step. So a blob that is stored
//! during the listing does not seem to lack its record.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};

use super::info::BlobInfo;
use crate::content::{Entry, Stat};
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::media_type::MediaType;
use crate::owner::Owner;
use crate::pool::{self, give_way};
use crate::records::blob::decode;
use crate::records::{BlobRecord, Record, Table};
use crate::store::Store;

/// Maximum number of blobs, and of records, in one page.
const PAGE: usize = 1000;

/// All blobs of a store, and the problems with their records.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct BlobList {
    /// The blobs, in the order of their digests. A blob with a problem has only its digest and its
    /// size.
    pub blobs: Vec<BlobInfo>,
    /// The problems, in the order of the digests.
    pub problems: Vec<BlobProblem>,
}

impl BlobList {
    /// Returns the media types of the blobs, by digest. Blobs without a media type are left out.
    pub fn media_types(&self) -> BTreeMap<Digest, MediaType> {
        let typed = |blob: &BlobInfo| Some((blob.digest, blob.media_type.clone()?));
        self.blobs.iter().filter_map(typed).collect()
    }

    /// Returns the sum of the sizes of all blobs, in bytes.
    pub fn bytes(&self) -> u64 {
        self.blobs.iter().map(|blob| blob.size).sum()
    }
}

/// The reason why a blob of a list has only its digest and its size.
#[derive(Debug)]
#[non_exhaustive]
pub enum BlobProblem {
    /// The store has no record of the blob. Another program stored the blob, or its record was
    /// lost. No collection removes such a blob. A blob that is removed during the listing may also
    /// be reported.
    Unrecorded(Digest),
    /// The record of the blob does not parse.
    Unreadable(Digest, Error),
}

impl BlobProblem {
    /// Returns the digest of the blob.
    pub fn digest(&self) -> &Digest {
        match self {
            BlobProblem::Unrecorded(digest) | BlobProblem::Unreadable(digest, _) => digest,
        }
    }
}

impl fmt::Display for BlobProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BlobProblem::Unrecorded(digest) => {
                write!(
                    f,
                    "{digest} has no record: another program stored it, or its record was lost; \
                     run `cas fsck --repair`"
                )
            }
            BlobProblem::Unreadable(_, error) => write!(f, "{error}; run `cas fsck`"),
        }
    }
}

/// Returns all blobs of the store, joined with their records. If the store is opened for an owner,
/// returns only the blobs that the owner claims. Blobs that a collection is removing are left out.
/// If the store lists a blob without its size, the size is taken from the record of the blob.
///
/// # Errors
/// Errors of the store. A record that does not parse is not an error. It is reported in
/// [`BlobList::problems`], unless the store is opened for an owner. A list for an owner has no
/// problems, because a blob without a valid record has no claims.
pub async fn list(store: &Store) -> Result<BlobList> {
    let mut list = BlobList::default();
    let (mut after, mut read) = (None, None);
    let mut page = store.content.entries(None, PAGE).await?;
    while let Some(last) = page.last().map(|entry| *entry.digest()) {
        let more = page.len() == PAGE;
        let next = async {
            match more {
                true => store.content.entries(Some(&last), PAGE).await,
                false => Ok(Vec::new()),
            }
        };
        // Many stores read records on this thread. Meanwhile, other threads list the next page and
        // join the previous one.
        let joined = join(read.take(), store.owner());
        let records = records(store, after.as_ref(), &last, page.len());
        let (following, joined, records) = tokio::try_join!(next, joined, records)?;
        list.append(store, joined).await?;
        // Most stores answer without yielding, and other tasks share this thread.
        give_way().await;
        read = Some((std::mem::replace(&mut page, following), records));
        after = Some(last);
    }
    let joined = join(read, store.owner()).await?;
    list.append(store, joined).await?;
    Ok(list)
}

/// A blob of a page.
enum Row {
    /// The blob is joined with its record. Both values are `None` if the list leaves the blob out.
    Joined(Option<BlobInfo>, Option<BlobProblem>),
    /// The size still has to be looked up: the store listed only the digest, and the record of the
    /// blob is missing, does not parse or has a tombstone.
    Unsettled(Digest, Option<Record>),
}

/// Returns the blobs of a page of content, joined with the records of the same range.
async fn join(read: Option<(Vec<Entry>, Vec<Record>)>, owner: Option<&Owner>) -> Result<Vec<Row>> {
    let Some((page, records)) = read else {
        return Ok(Vec::new());
    };
    let owner = owner.cloned();
    pool::run(move || Ok(rows(&page, records, owner.as_ref()))).await
}

/// Joins a page of content with the records of the same range.
fn rows(page: &[Entry], records: Vec<Record>, owner: Option<&Owner>) -> Vec<Row> {
    let mut records = records.into_iter().peekable();
    let mut key = String::new();
    let row = |entry: &Entry| {
        key.clear();
        // Writing to a string does not fail.
        let _ = write!(key, "{}", entry.digest());
        while records.next_if(|record| record.key < key).is_some() {}
        row(entry, records.next_if(|record| record.key == key), owner)
    };
    page.iter().map(row).collect()
}

fn row(entry: &Entry, record: Option<Record>, owner: Option<&Owner>) -> Row {
    match entry {
        Entry::Stat(stat) => joined(stat, record.as_ref(), owner),
        Entry::Digest(digest) => match record.as_ref().map(decode) {
            Some(Ok(blob)) if blob.tombstone.is_none() => {
                let is_claimed = owner.is_none_or(|owner| blob.owners.contains(owner));
                let info = is_claimed.then(|| BlobInfo::recorded(*digest, blob));
                Row::Joined(info, None)
            }
            _ => Row::Unsettled(*digest, record),
        },
    }
}

fn joined(stat: &Stat, record: Option<&Record>, owner: Option<&Owner>) -> Row {
    let (record, problem) = match record.map(decode) {
        None => (None, Some(BlobProblem::Unrecorded(stat.digest))),
        Some(Err(error)) => (None, Some(BlobProblem::Unreadable(stat.digest, error))),
        Some(Ok(record)) => (Some(record), None),
    };
    let claims = |owner| {
        let record = record.as_ref();
        record.is_some_and(|record: &BlobRecord| record.owners.contains(owner))
    };
    if owner.is_some_and(|owner| !claims(owner)) {
        return Row::Joined(None, None);
    }
    Row::Joined(BlobInfo::join(stat, record), problem)
}

/// Returns the records after the digest `after`, up to and including the digest `last`.
async fn records(
    store: &Store,
    after: Option<&Digest>,
    last: &Digest,
    expected: usize,
) -> Result<Vec<Record>> {
    let last = last.to_string();
    let mut after = after.map(Digest::to_string);
    let mut found = Vec::with_capacity(expected);
    loop {
        let scanned = store.records.scan(Table::Blobs, "", after.as_deref(), PAGE);
        let mut page = scanned.await?;
        let is_last = page.len() < PAGE;
        let read = page.len();
        page.truncate(page.partition_point(|record| record.key <= last));
        let is_beyond = page.len() < read;
        found.append(&mut page);
        if is_last || is_beyond || found.last().is_none_or(|record| record.key == last) {
            return Ok(found);
        }
        after = found.last().map(|record| record.key.clone());
    }
}

impl BlobList {
    /// Adds the rows of a page. Looks up the sizes of unsettled blobs.
    async fn append(&mut self, store: &Store, rows: Vec<Row>) -> Result<()> {
        for row in rows {
            let row = match row {
                Row::Unsettled(digest, record) => match store.content.stat(&digest).await? {
                    Some(stat) => joined(&stat, record.as_ref(), store.owner()),
                    None => continue,
                },
                row => row,
            };
            if let Row::Joined(info, problem) = row {
                self.blobs.extend(info);
                self.problems.extend(problem);
            }
        }
        Ok(())
    }
}
