//! A blob that an import stores.

use std::collections::HashSet;

use cas_core::lease::BlobRef;
use cas_core::{Descriptor, Digest, Error, Result};

use super::contents::{Location, Part};

/// A blob to store, and where its bytes are.
pub(super) struct Item {
    pub(super) descriptor: Descriptor,
    /// The blobs that it lists.
    pub(super) children: Vec<Digest>,
    pub(super) part: Part,
}

impl Item {
    /// Returns the reference with which its children are recorded. Children that are not in
    /// `planned` are recorded as absent.
    pub(super) fn blob_ref(&self, planned: &HashSet<Digest>) -> BlobRef {
        let mut blob = BlobRef::of(&self.descriptor, self.children.clone());
        let left_out = self
            .children
            .iter()
            .filter(|child| !planned.contains(child));
        blob.absent = left_out.copied().collect();
        blob
    }

    /// Checks that the part can be stored as the content of the descriptor.
    ///
    /// # Errors
    /// `Corrupt` for a part of another size, or for a stored blob of another digest; `Conflict` if
    /// the content was in the store, and was removed.
    pub(super) fn check(&self) -> Result<()> {
        let Item {
            descriptor, part, ..
        } = self;
        let error = match part.location {
            _ if part.size != descriptor.size => {
                let (expected, found) = (descriptor.size, part.size);
                Error::corrupt(format!(
                    "expected {expected} bytes, found {found}; import an intact copy"
                ))
                .operation("read")
            }
            Location::Stored(found) if found == descriptor.digest => Error::conflict(
                "the blob was removed from the store during the import; import again",
            ),
            Location::Stored(found) => Error::corrupt(format!(
                "expected content of this digest, found {found}; import an intact copy"
            ))
            .operation("read"),
            Location::File(..) | Location::Memory(_) | Location::Spilled(..) => return Ok(()),
        };
        Err(error.subject(descriptor.digest))
    }
}
