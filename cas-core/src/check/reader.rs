//! Selects the blobs and snapshots that a check reads, limits the speed of reading, and notes how
//! far the check has come.

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;

use super::{CheckOptions, ReadData};
use crate::content::{self, BlobReader, Stat};
use crate::digest::Digest;
use crate::error::{Error, ErrorKind, Result};
use crate::records::{Expect, Notes};
use crate::snapshot::Snapshotter;
use crate::store::Store;

/// The text of a finding for a blob that is needed, but that the store does not have.
pub(super) const MISSING: &str = "the store does not have it";

/// Number of blobs between two notes of the last blob that was read.
const NOTED: usize = 16;
/// The room of the notes on the last blob that was read. Each selection has its own note, except
/// that all percentages share one.
const ROOM: &str = "fsck";

/// The blobs or the snapshots that a check selects for reading.
pub(super) struct Reading {
    selection: ReadData,
    /// The beginning of the keys of the notes: empty for blobs, `SNAPSHOTTER-` for snapshots.
    of: String,
    notes: Notes,
    /// The last blob that an earlier check read, or `None` to begin at the first blob.
    cursor: Option<Digest>,
}

impl Reading {
    pub(super) async fn begin(store: &Store, options: &CheckOptions<'_>) -> Result<Self> {
        Self::begin_of(String::new(), store, options).await
    }

    /// Begins to read the snapshots of a snapshotter. In place of the digest of a blob, a snapshot
    /// has the digest of its key.
    pub(super) async fn begin_snapshots(
        snapshotter: &str,
        store: &Store,
        options: &CheckOptions<'_>,
    ) -> Result<Self> {
        Self::begin_of(prefix(snapshotter), store, options).await
    }

    async fn begin_of(of: String, store: &Store, options: &CheckOptions<'_>) -> Result<Self> {
        let notes = Notes::new(Arc::clone(&store.records), ROOM)?;
        Self::new(of, notes, options.read_data, options.resume).await
    }

    async fn new(of: String, notes: Notes, selection: ReadData, resume: bool) -> Result<Self> {
        let cursor = match resume || matches!(selection, ReadData::Percent(_)) {
            true => notes.load(&key(&of, selection)).await?,
            false => None,
        };
        let cursor = cursor.and_then(|(value, _)| std::str::from_utf8(&value).ok()?.parse().ok());
        Ok(Reading {
            selection,
            of,
            notes,
            cursor,
        })
    }

    /// Returns the blobs that are read, in the order of reading. `stats` must be in the order of
    /// their digests.
    pub(super) fn select(&self, stats: &[Stat]) -> Vec<Stat> {
        let is_after = |stat: &Stat| self.cursor.is_none_or(|cursor| stat.digest > cursor);
        let first = stats.partition_point(|stat| !is_after(stat));
        let (before, after) = stats.split_at(first);
        match self.selection {
            ReadData::Nothing => Vec::new(),
            ReadData::All => after.to_vec(),
            ReadData::Part { number, of } => {
                let chosen = after.iter().filter(|stat| part(&stat.digest, of) == number);
                chosen.copied().collect()
            }
            ReadData::Percent(percent) => {
                let total: u128 = stats.iter().map(|stat| u128::from(stat.size)).sum();
                let mut left = total * u128::from(percent) / 100;
                let mut chosen = Vec::new();
                for stat in after.iter().chain(before) {
                    chosen.push(*stat);
                    match left.checked_sub(u128::from(stat.size)) {
                        Some(rest) if rest > 0 => left = rest,
                        _ => break,
                    }
                }
                chosen
            }
        }
    }

    /// Notes every [`NOTED`]th blob as the last that was read. Errors are ignored, because a store
    /// that cannot be written is checked without notes.
    pub(super) async fn note(&self, number: usize, stat: &Stat) {
        if number % NOTED == NOTED - 1 {
            self.write(stat).await;
        }
    }

    /// Notes the last blob that was read. If the check is interrupted later, for example while it
    /// reads snapshots, a check that continues reads none of the blobs again. The next check of a
    /// percentage continues after the last blob in any case.
    pub(super) async fn end(&self, last: Option<&Stat>) {
        if let Some(last) = last {
            self.write(last).await;
        }
    }

    async fn write(&self, stat: &Stat) {
        let value = stat.digest.to_string().into();
        let key = key(&self.of, self.selection);
        let _ = self.notes.put(&key, value, Expect::Any).await;
    }
}

/// Deletes the notes of a selection, so that no check continues there: when a check begins at the
/// first blob, and when a check has read the whole selection. Keeps the notes of percentages.
pub(super) async fn forget(
    store: &Store,
    selection: ReadData,
    snapshotters: &[&dyn Snapshotter],
) -> Result<()> {
    if matches!(selection, ReadData::Nothing | ReadData::Percent(_)) {
        return Ok(());
    }
    let notes = Notes::new(Arc::clone(&store.records), ROOM)?;
    let mut all = vec![String::new()];
    all.extend(snapshotters.iter().map(|one| prefix(one.name())));
    for of in all {
        // A store that cannot be written is checked without notes.
        let _ = notes.delete(&key(&of, selection), Expect::Any).await;
    }
    Ok(())
}

/// Returns the beginning of the keys of the notes on the snapshots of a snapshotter.
fn prefix(snapshotter: &str) -> String {
    format!("{snapshotter}-")
}

/// Returns the key of the note of a selection. All percentages share one note.
fn key(what: &str, selection: ReadData) -> String {
    match selection {
        ReadData::Nothing | ReadData::All => format!("{what}all"),
        ReadData::Part { number, of } => format!("{what}{number}-of-{of}"),
        ReadData::Percent(_) => format!("{what}percentages"),
    }
}

/// Returns the number of the part that a digest belongs to, from 1 to `of`.
fn part(digest: &Digest, of: u64) -> u64 {
    let hex = digest.hex();
    let number = u64::from_str_radix(hex.get(..15).unwrap_or_default(), 16).unwrap_or_default();
    number % of + 1
}

/// Reads a blob, at most as fast as the options allow. Returns the digest of its bytes.
///
/// # Errors
/// Errors of the store.
pub(super) async fn hash(
    reader: &dyn BlobReader,
    digest: &Digest,
    options: &CheckOptions<'_>,
) -> Result<Digest> {
    let paced = Paced {
        reader,
        item: digest.to_string(),
        begun: Instant::now(),
        options,
    };
    options.progress.begin(&paced.item, Some(reader.size()));
    let found = content::hash(&paced, digest.algorithm()).await?;
    options.progress.end(&paced.item);
    Ok(found)
}

/// Reads a blob from its beginning, at most as fast as the options allow, and reports the
/// progress.
struct Paced<'a> {
    reader: &'a dyn BlobReader,
    item: String,
    begun: Instant,
    options: &'a CheckOptions<'a>,
}

#[async_trait]
impl BlobReader for Paced<'_> {
    fn size(&self) -> u64 {
        self.reader.size()
    }

    async fn read_at(&self, offset: u64, length: usize) -> Result<Bytes> {
        let piece = self.reader.read_at(offset, length).await?;
        let read = piece.len() as u64;
        self.options.progress.advance(&self.item, read);
        if let Some(rate) = self.options.bytes_per_second {
            let due = Duration::from_secs_f64((offset + read) as f64 / rate.max(1) as f64);
            tokio::time::sleep(due.saturating_sub(self.begun.elapsed())).await;
        }
        Ok(piece)
    }
}

/// Returns how the bytes of a blob are damaged, or `None` if they are intact. `hashed` is the
/// digest of the bytes, `None` if the store does not have the blob, or the error of reading them.
///
/// # Errors
/// The error of reading, if it does not mean damage.
pub(super) fn damage(hashed: Result<Option<Digest>>, digest: &Digest) -> Result<Option<String>> {
    match hashed {
        Ok(Some(found)) if found == *digest => Ok(None),
        Ok(Some(found)) => Ok(Some(format!("its bytes have the digest {found}"))),
        Ok(None) => Ok(Some(MISSING.to_owned())),
        Err(error) if is_damage(&error) => Ok(Some(format!("it cannot be read: {error}"))),
        Err(error) => Err(error),
    }
}

/// Returns whether an error means that the bytes of a blob are damaged or gone. In a bucket, a part
/// of a blob may be missing (`NotFound`).
fn is_damage(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::NotFound)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::content::Version;
    use crate::pool::wait;
    use crate::testing::memory::MemoryStore;

    fn stats(sizes: &[u64]) -> Vec<Stat> {
        let stat = |(number, size): (usize, &u64)| Stat {
            digest: Digest::sha256(&[number as u8]),
            size: *size,
            version: Version(1),
        };
        let mut stats: Vec<Stat> = sizes.iter().enumerate().map(stat).collect();
        stats.sort_by_key(|stat| stat.digest);
        stats
    }

    fn reading(selection: ReadData, cursor: Option<Digest>) -> Reading {
        let records: Arc<MemoryStore> = Arc::default();
        Reading {
            selection,
            of: String::new(),
            notes: Notes::new(records, "fsck").unwrap(),
            cursor,
        }
    }

    #[test]
    fn each_selection_goes_on_where_it_ended() {
        let stats = stats(&[1; 3]);
        let part = ReadData::Part { number: 1, of: 2 };
        let store = MemoryStore::new().with_images();
        let notes = || Notes::new(store.records.clone(), ROOM).unwrap();
        let reading =
            |selection| wait(Reading::new(String::new(), notes(), selection, true)).unwrap();
        wait(reading(ReadData::Percent(1)).end(Some(&stats[0])));
        wait(reading(part).write(&stats[1]));
        assert_eq!(reading(ReadData::All).cursor, None);
        assert_eq!(reading(part).cursor, Some(stats[1].digest));
        assert_eq!(reading(ReadData::Percent(2)).cursor, Some(stats[0].digest));
        wait(reading(part).end(Some(&stats[2])));
        let last = Some(stats[2].digest);
        assert_eq!(reading(part).cursor, last, "snapshots may be left to read");
        for selection in [ReadData::All, part, ReadData::Percent(1)] {
            wait(forget(&store, selection, &[])).unwrap();
        }
        assert_eq!(reading(part).cursor, None, "all of it was read");
        assert_eq!(reading(ReadData::Percent(2)).cursor, Some(stats[0].digest));
    }

    #[test]
    fn parts_are_disjoint_and_together_are_all() {
        let stats = stats(&[1; 100]);
        for of in [1, 2, 3, 7] {
            let mut all = Vec::new();
            for number in 1..=of {
                all.extend(reading(ReadData::Part { number, of }, None).select(&stats));
            }
            all.sort_by_key(|stat| stat.digest);
            assert_eq!(all, stats, "{of} parts");
        }
    }

    #[test]
    fn percentages_go_on_where_the_last_one_ended() {
        let stats = stats(&[10; 10]);
        let mut read = Vec::new();
        let mut cursor = None;
        for _ in 0..5 {
            let some = reading(ReadData::Percent(20), cursor).select(&stats);
            assert_eq!(some.len(), 2);
            cursor = some.last().map(|stat| stat.digest);
            read.extend(some);
        }
        assert_eq!(read, stats);
        let again = reading(ReadData::Percent(15), cursor).select(&stats);
        assert_eq!(again, stats[..2], "it begins again at the first");
        assert_eq!(reading(ReadData::Percent(100), None).select(&stats), stats);
        assert_eq!(
            reading(ReadData::All, Some(stats[3].digest)).select(&stats),
            stats[4..]
        );
    }
}
