//! Notes that lead from the targets of names to the names, so that an image is found by its digest
//! without reading all names.
//!
//! The key of a note is the digest, a blank, and the name; its value is empty. The note is written
//! and deleted in the batch that changes the name.

use std::sync::Arc;

use bytes::Bytes;

use super::{Image, Reference};
use crate::digest::DigestPrefix;
use crate::error::Result;
use crate::records::{Batch, Expect, Notes, Records};

/// The room of the notes.
const ROOM: &str = "image-targets";

/// The notes of one store.
#[derive(Clone)]
pub(super) struct Targets(Notes);

impl Targets {
    pub(super) fn new(records: Arc<dyn Records>) -> Result<Self> {
        Ok(Targets(Notes::new(records, ROOM)?))
    }

    /// Adds the note of an image to `batch`, instead of the one of the same name `before`.
    pub(super) fn replace(
        &self,
        batch: &mut Batch,
        before: Option<&Image>,
        image: &Image,
    ) -> Result<()> {
        if let Some(before) = before {
            if before.target.digest == image.target.digest {
                return Ok(());
            }
            self.delete(batch, before)?;
        }
        self.0.put_in(batch, &key(image), Bytes::new(), Expect::Any)
    }

    /// Adds the deletion of the note of an image to `batch`.
    pub(super) fn delete(&self, batch: &mut Batch, image: &Image) -> Result<()> {
        self.0.delete_in(batch, &key(image), Expect::Any)
    }

    /// Returns the names of which a target begins with `prefix`, in their order. A name may have
    /// another target by now.
    pub(super) async fn names(&self, prefix: &DigestPrefix) -> Result<Vec<Reference>> {
        let mut names = Vec::new();
        for prefix in prefix.texts() {
            self.0
                .each(&prefix, |note| {
                    let name = note.key.split_once(' ').map(|(_, name)| name.parse());
                    names.extend(name.transpose()?);
                    Ok(())
                })
                .await?;
        }
        names.sort();
        names.dedup();
        Ok(names)
    }
}

fn key(image: &Image) -> String {
    format!("{} {}", image.target.digest, image.name)
}

/// Returns the key in [`Table::Notes`](crate::records::Table::Notes) of the note that leads to a
/// name, which is stored as `value`. Returns `None` if `value` does not parse.
pub fn target_note(value: &[u8]) -> Option<String> {
    let image: Image = serde_json::from_slice(value).ok()?;
    Some(format!("{ROOM}/{}", key(&image)))
}

/// Returns whether a key in [`Table::Notes`](crate::records::Table::Notes) is that of a note which
/// leads to a name.
pub fn is_target_note(key: &str) -> bool {
    key.strip_prefix(ROOM)
        .is_some_and(|rest| rest.starts_with('/'))
}
