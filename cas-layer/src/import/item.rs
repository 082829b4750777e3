//! A blob that an import stores.

use cas_core::{Descriptor, Digest};

use super::contents::Part;

/// A blob to store, and where its bytes are.
pub(super) struct Item {
    pub(super) descriptor: Descriptor,
    /// The blobs that it lists.
    pub(super) children: Vec<Digest>,
    pub(super) part: Part,
}
