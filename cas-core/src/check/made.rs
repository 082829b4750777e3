//! The records of blobs that a repair makes again.
//!
//! Only the lost records stated which owners claim a blob, and which labels it has. So at its end,
//! a repair restores claims (`owners.rs`), and keeps the blobs that a lost label may have kept.
//! Until this is done, a note exists. If the repair is killed, the next repair finds the note, and
//! does this for all blobs, because it does not know which records the killed repair has made.

use std::sync::Arc;

use bytes::Bytes;

use super::heal::keep;
use super::{Checker, Problem, RECOVERED};
use crate::digest::Digest;
use crate::error::{ErrorKind, Result};
use crate::gc;
use crate::records::{Expect, Notes};

/// The room of the note.
const ROOM: &str = "repair";
/// The key of the note.
const UNFINISHED: &str = "unfinished";

impl Checker<'_> {
    /// Finds out whether an earlier repair was killed before the end of
    /// [`restore_facts`](Self::restore_facts).
    pub(super) async fn load_unfinished(&mut self) -> Result<()> {
        if self.options.repair.is_some() {
            self.is_continued = self.notes_on_repairs()?.load(UNFINISHED).await?.is_some();
        }
        Ok(())
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

    /// In a repair, restores what only the lost records stated.
    pub(super) async fn restore_facts(&mut self) -> Result<()> {
        let is_needed = self.is_continued || !self.made.is_empty();
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
                notes.delete(UNFINISHED, Expect::Any).await
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
