//! Copies the readable blobs and records of a damaged database to a new database.

use std::collections::BTreeSet;

use cas_core::image::is_target_note;
use cas_core::records::Table;
use cas_core::{Digest, Result};

use super::source::Source;
use crate::engine::{BlobEntry, Engine, Failed, Transaction};
use crate::kv::{Kv, put_target};
use crate::tx;

/// Number of rows that are read at once.
const ROWS: usize = 16;
/// Number of bytes after which a transaction is synced.
const SYNCED: u64 = 64 << 20;

/// What was copied.
#[derive(Clone, Debug, Default)]
pub(super) struct Copied {
    /// Number of blobs and records that were read. Notes of image names count, although they are
    /// made again from the names instead of being copied.
    pub(super) kept: u64,
    /// The blobs whose bytes cannot be read, except those that have neither a readable entry nor a
    /// readable record.
    pub(super) lost: BTreeSet<Digest>,
}

/// Copies everything that can be read, except for ingests, and makes it durable.
pub(super) fn copy(old: &mut Source<'_>, new: &dyn Engine) -> Result<Copied> {
    Kv::write_format(new)?;
    let mut copier = Copier {
        new,
        unsynced: 0,
        highest: 0,
        copied: Copied::default(),
    };
    old.blobs(&mut |old, page| {
        page.into_iter()
            .try_for_each(|(digest, blob)| copier.blob(old, &digest, blob))
    })?;
    for table in Table::ALL {
        old.records(table, &mut |old, page| {
            if table == Table::Blobs {
                copier.unlisted(old, page.iter().map(|(key, _)| key))?;
            }
            let bytes = page.iter().map(|(_, (_, value))| value.len() as u64).sum();
            let revisions = page.iter().map(|(_, (revision, _))| *revision);
            copier.highest = revisions.fold(copier.highest, u64::max);
            copier.copied.kept += page.len() as u64;
            copier.write(bytes, &mut |tx| {
                page.iter().try_for_each(|(key, (revision, value))| {
                    match table {
                        Table::Images => put_target(tx, *revision, value)?,
                        // `put_target` writes these notes again, with the names.
                        Table::Notes if is_target_note(key) => return Ok(()),
                        _ => {}
                    }
                    tx.put_record(table, key, *revision, value)
                })
            })
        })?;
    }
    let numbers = old.read(|view| view.meta(tx::NUMBERS))?.flatten();
    copier.finish(numbers)?;
    Ok(copier.copied)
}

struct Copier<'a> {
    new: &'a dyn Engine,
    /// Number of bytes since the last synced transaction.
    unsynced: u64,
    /// The highest number so far. It identifies a blob, or is the revision of a record.
    highest: u64,
    copied: Copied,
}

impl Copier<'_> {
    fn blob(&mut self, old: &mut Source<'_>, digest: &Digest, blob: BlobEntry) -> Result<()> {
        self.highest = self.highest.max(blob.number);
        let inline = match blob.in_rows() {
            true => Some(Vec::new()),
            false => old
                .read(|view| view.open_blob(digest))?
                .flatten()
                .map(|(_, bytes)| bytes.to_vec()),
        };
        let Some(inline) = inline else {
            self.copied.lost.insert(*digest);
            return Ok(());
        };
        if blob.in_rows() && !self.rows(old, blob)? {
            self.copied.lost.insert(*digest);
            return self.write(0, &mut |tx| tx.remove_rows(blob).map(drop));
        }
        self.copied.kept += 1;
        self.write(inline.len() as u64, &mut |tx| {
            tx.insert_blob(digest, blob, &inline)
        })
    }

    /// Copies the blobs with these digests that the list of blobs lacks. RocksDB cannot list what
    /// lies between the keys of a damaged block, but finds by its key what was written there later.
    /// Stops at the first entry that the engine cannot find in this way.
    fn unlisted<'k>(
        &mut self,
        old: &mut Source<'_>,
        digests: impl Iterator<Item = &'k String>,
    ) -> Result<()> {
        let new = self.new.view()?;
        for digest in digests.filter_map(|digest| digest.parse::<Digest>().ok()) {
            if self.copied.lost.contains(&digest) || new.find_blob(&digest)?.is_some() {
                continue;
            }
            match old.read(|view| view.find_blob(&digest))? {
                None => break,
                Some(None) => {}
                Some(Some(blob)) => self.blob(old, &digest, blob)?,
            }
        }
        Ok(())
    }

    /// Copies the rows of a blob. Returns whether all of them can be read.
    fn rows(&mut self, old: &mut Source<'_>, blob: BlobEntry) -> Result<bool> {
        let row_size = self.new.row_size();
        let mut offset = 0;
        while offset < blob.size {
            let left = usize::try_from(blob.size - offset).unwrap_or(usize::MAX);
            let wanted = left.min(ROWS * row_size);
            let read = old.read(|view| view.read_rows(blob.number, offset, wanted))?;
            let Some(piece) = read.filter(|piece| piece.len() == wanted) else {
                return Ok(false);
            };
            self.write(piece.len() as u64, &mut |tx| {
                let offsets = (offset..).step_by(row_size);
                let mut rows = offsets.zip(piece.chunks(row_size));
                rows.try_for_each(|(offset, row)| tx.stage_row(blob.number, offset, row))
            })?;
            offset += wanted as u64;
        }
        Ok(true)
    }

    /// Makes a change that adds `bytes` bytes.
    fn write(
        &mut self,
        bytes: u64,
        change: &mut dyn FnMut(&mut dyn Transaction) -> Result<(), Failed>,
    ) -> Result<()> {
        self.new.space().claim(bytes, self.new.pending_bytes()?)?;
        self.unsynced += bytes;
        let synced = self.unsynced >= SYNCED;
        self.new.transact(&mut |tx| change(tx).map(|()| synced))?;
        if synced {
            self.unsynced = 0;
        }
        Ok(())
    }

    /// Reserves the numbers up to the highest one, and makes everything durable.
    fn finish(&mut self, numbers: Option<u64>) -> Result<()> {
        let next = numbers.unwrap_or(0).max(self.highest.saturating_add(1));
        self.new.transact(&mut |tx| {
            tx.set_meta(tx::NUMBERS, next)?;
            Ok(true)
        })?;
        self.new.flush_staged()?;
        self.new.sync()
    }
}
