//! All blobs of a store, joined with their records.
//!
//! Content and records are both in the order of the digests, so that one pass over pages of each
//! joins them, and no record is loaded by itself. For each range of digests, the content is read
//! before the records. A job writes the record before the bytes, so a blob that is stored during
//! the listing does not seem to lack its record.

use std::collections::BTreeMap;
use std::fmt;

use super::info::BlobInfo;
use crate::content::Stat;
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::media_type::MediaType;
use crate::owner::Owner;
use crate::pool::give_way;
use crate::records::blob::decode;
use crate::records::{Record, Table};
use crate::store::Store;

/// Maximum number of blobs, and of records, in one page.
const PAGE: usize = 1000;

/// All blobs of a store, and what is wrong with their records.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct BlobList {
    /// The blobs, in the order of their digests. Of a blob with a problem, only the digest and the
    /// size are known.
    pub blobs: Vec<BlobInfo>,
    /// The problems, in the order of the digests.
    pub problems: Vec<BlobProblem>,
}

impl BlobList {
    /// Returns the media types of the blobs that have one.
    pub fn media_types(&self) -> BTreeMap<Digest, MediaType> {
        let typed = |blob: &BlobInfo| Some((blob.digest, blob.media_type.clone()?));
        self.blobs.iter().filter_map(typed).collect()
    }

    /// Returns the sum of the sizes of all blobs, in bytes.
    pub fn bytes(&self) -> u64 {
        self.blobs.iter().map(|blob| blob.size).sum()
    }
}

/// Why only the digest and the size of a blob are known.
#[derive(Debug)]
#[non_exhaustive]
pub enum BlobProblem {
    /// The store has no record of the blob: another program stored it, and no collection removes
    /// it. A blob that is removed during the listing may also be reported.
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
                    "{digest} has no record: another program stored it; run `cas fsck --repair`"
                )
            }
            BlobProblem::Unreadable(_, error) => write!(f, "{error}; run `cas fsck`"),
        }
    }
}

/// Returns all blobs of the store, joined with their records. If the store is opened for an owner,
/// returns those that the owner claims. Blobs that a collection is removing are left out.
///
/// # Errors
/// Errors of the store. A record that does not parse is a problem in the list.
pub async fn list(store: &Store) -> Result<BlobList> {
    let mut list = BlobList::default();
    let mut after = None;
    let mut page = store.content.list(None, PAGE).await?;
    while let Some(last) = page.last().map(|stat| stat.digest) {
        let more = page.len() == PAGE;
        let next = async {
            match more {
                true => store.content.list(Some(&last), PAGE).await,
                false => Ok(Vec::new()),
            }
        };
        // Many stores read a page of content on another thread. The records are read at the same
        // time.
        let records = records(store, after.as_ref(), &last, page.len());
        let (following, records) = tokio::try_join!(next, records)?;
        list.add(&page, records, store.owner());
        // Most stores answer without yielding, and other tasks share this thread.
        give_way().await;
        (page, after) = (following, Some(last));
    }
    Ok(list)
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
    /// Adds a page of content with the records of the same range.
    fn add(&mut self, page: &[Stat], records: Vec<Record>, owner: Option<&Owner>) {
        let mut records = records.into_iter().peekable();
        for stat in page {
            let key = stat.digest.to_string();
            while records.next_if(|record| record.key < key).is_some() {}
            let record = records.next_if(|record| record.key == key);
            self.add_blob(stat, record.as_ref(), owner);
        }
    }

    fn add_blob(&mut self, stat: &Stat, record: Option<&Record>, owner: Option<&Owner>) {
        let (record, problem) = match record.map(decode) {
            None => (None, Some(BlobProblem::Unrecorded(stat.digest))),
            Some(Err(error)) => (None, Some(BlobProblem::Unreadable(stat.digest, error))),
            Some(Ok(record)) => (Some(record), None),
        };
        let claims = |owner| {
            record
                .as_ref()
                .is_some_and(|record| record.owners.contains(owner))
        };
        if owner.is_some_and(|owner| !claims(owner)) {
            return;
        }
        self.blobs.extend(BlobInfo::join(stat, record));
        self.problems.extend(problem);
    }
}
