//! A blob that an import stores.

use cas_core::{Descriptor, Digest};

use super::contents::Part;

/// Blobs that are stored at the same time.
pub(super) const AT_ONCE: usize = 3;

/// A blob to store.
pub(super) struct Item {
    pub(super) descriptor: Descriptor,
    /// The blobs that it lists.
    pub(super) children: Vec<Digest>,
    pub(super) part: Part,
}
