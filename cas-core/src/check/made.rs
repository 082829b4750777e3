//! The records of blobs that a repair makes again.
//!
//! Only the lost records stated which owners claim a blob, and which labels it has. So at its end,
//! a repair restores claims (`owners.rs`), and keeps the blobs that a lost label may have kept.
//! Until this is done, a note exists. If the repair is killed, the next repair finds the note, and
//! does this for all blobs, because it does not know which records the killed repair has made.
//! There is another note if the list of the lease [`RECOVERED`] was lost (`own_leases.rs`).

use std::sync::Arc;

use bytes::Bytes;

use super::heal::keep;
use super::{Checker, Problem, RECOVERED};
use crate::digest::Digest;
use crate::error::{ErrorKind, Result};
use crate::gc;
use crate::records::{Expect, Notes};

/// The room of the notes.
const ROOM: &str = "repair";
/// The key of the note that exists until everything is restored. Its value is empty.
const UNFINISHED: &str = "unfinished";
/// The key of the note that exists if the list of the lease [`RECOVERED`] was lost, until the list
/// is made again. Its value is empty.
const LIST_LOST: &str = "list-lost";

impl Checker<'_> {
    /// Finds out whether an earlier repair was killed before the end of
    /// [`restore_facts`](Self::restore_facts).
    pub(super) async fn load_unfinished(&mut self) -> Result<()> {
        if self.options.repair.is_none() {
            return Ok(());
        }
        let notes = self.notes_on_repairs()?;
        self.is_continued = notes.load(UNFINISHED).await?.is_some();
        if notes.load(LIST_LOST).await?.is_some() {
            self.lose_list();
        }
        Ok(())
    }

    /// Notes that the list of the lease [`RECOVERED`] is lost. A repair calls this before it
    /// replaces the record of the lease.
    pub(super) async fn note_list_lost(&mut self) -> Result<()> {
        let notes = self.notes_on_repairs()?;
        notes.put(LIST_LOST, Bytes::new(), Expect::Any).await?;
        self.lose_list();
        Ok(())
    }

    /// The lease may have kept documents that no name reaches, and blobs that lost labels kept.
    fn lose_list(&mut self) {
        self.list_lost = true;
        self.names_lost = true;
        self.labels_lost = true;
    }

    /// Adds a blob to those whose records this check has found missing or damaged. A repair calls
    /// this before it makes the record again. Returns whether the blob is new.
    pub(super) async fn note_made(&mut self, digest: Digest) -> Result<bool> {
        if self.options.repair.is_some() && self.made.is_empty() {
            let notes = self.notes_on_repairs()?;
            notes.put(UNFINISHED, Bytes::new(), Expect::Any).await?;
        }
        Ok(self.made.insert(digest))
    }

    /// As [`note_made`](Self::note_made), for a missing or damaged blob that a repair is about to
    /// fetch. Does nothing if the blob has a record, or had none because its tar was kept instead.
    /// Returns whether labels of the blob may be lost.
    pub(super) async fn note_unrecorded(&mut self, digest: &Digest) -> Result<bool> {
        let is_check = self.options.repair.is_none();
        let had_none = self.unstored.contains(digest);
        if is_check || had_none || self.store.blobs().load_sound(digest).await?.is_some() {
            return Ok(false);
        }
        // Another program stores blobs without records.
        let is_lost = self.note_made(*digest).await? && !self.is_foreign;
        self.labels_lost |= is_lost;
        Ok(is_lost)
    }

    /// In a repair, restores what only the lost records stated.
    pub(super) async fn restore_facts(&mut self) -> Result<()> {
        let is_needed = self.is_continued || self.list_lost || !self.made.is_empty();
        if self.options.repair.is_none() || !is_needed {
            return Ok(());
        }
        let restored = match self.restore_claims().await {
            Ok(()) => self.keep_unattributed().await,
            Err(error) => Err(error),
        };
        match restored {
            // What a damaged document refers to is not known. As long as it is damaged, collections
            // remove no blobs. The next repair tries again.
            Err(error) if error.kind() == ErrorKind::Corrupt => Ok(()),
            restored => {
                restored?;
                let notes = self.notes_on_repairs()?;
                notes.delete(UNFINISHED, Expect::Any).await?;
                notes.delete(LIST_LOST, Expect::Any).await
            }
        }
    }

    /// If labels may be lost, keeps the stored blobs to which nothing refers, because such a label
    /// may have referred to them.
    async fn keep_unattributed(&mut self) -> Result<()> {
        if !self.is_continued && !self.labels_lost {
            return Ok(());
        }
        let mut kept = Vec::new();
        for digest in gc::unattributed(self.store, self.snapshotters).await? {
            if self.store.content.stat(&digest).await?.is_some() {
                kept.push(digest);
            }
        }
        if kept.is_empty() {
            return Ok(());
        }
        keep(self.store, RECOVERED, &kept).await?;
        for digest in kept {
            let detail = format!(
                "nothing refers to the blob, but a label in a lost record may have kept it; the \
                 lease `{RECOVERED}` keeps it"
            );
            self.add(Problem::RecordMissing, digest, detail, true);
        }
        Ok(())
    }

    fn notes_on_repairs(&self) -> Result<Notes> {
        Notes::new(Arc::clone(&self.store.records), ROOM)
    }
}
