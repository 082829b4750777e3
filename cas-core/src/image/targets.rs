//! Notes (small records) that lead from the target of an image to the name of the image. With these
//! notes, an image is found by the digest of its target without reading all names.
//!
//! The key of a note is the digest, a blank, and the name. The value is empty. The batch that
//! writes or deletes the record of an image also updates the notes of the image.

use std::sync::Arc;

use bytes::Bytes;

use super::{Image, Reference};
use crate::digest::DigestPrefix;
use crate::error::Result;
use crate::records::{Batch, Expect, Notes, Records};

/// The room (the namespace) of the notes: the first part of their keys in the table.
const ROOM: &str = "image-targets";

/// The notes of one store.
#[derive(Clone)]
pub(super) struct Targets(Notes);

impl Targets {
    pub(super) fn new(records: Arc<dyn Records>) -> Result<Self> {
        Ok(Targets(Notes::new(records, ROOM)?))
    }

    /// Adds the note of an image to `batch`, and the deletion of the note of `before`, the image
    /// that had the name. Adds nothing if the targets of both have the same digest.
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

    /// Returns the names that notes list for targets whose digests begin with `prefix`, sorted. A
    /// name may have another target by now.
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

/// Returns the key in [`Table::Notes`](crate::records::Table::Notes) of the note that leads to the
/// name of an image. `value` is the stored record of the image. Returns `None` if the record does
/// not parse.
pub fn target_note(value: &[u8]) -> Option<String> {
    let image: Image = serde_json::from_slice(value).ok()?;
    Some(format!("{ROOM}/{}", key(&image)))
}

/// Returns whether a key in [`Table::Notes`](crate::records::Table::Notes) belongs to a note that
/// leads from a target to a name.
pub fn is_target_note(key: &str) -> bool {
    key.strip_prefix(ROOM)
        .is_some_and(|rest| rest.starts_with('/'))
}
