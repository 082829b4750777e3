//! What a collection removed.

use crate::digest::Digest;
use crate::records::Resource;

/// What was removed, or would be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Removed {
    /// Blobs and the bytes they took.
    pub blobs: Vec<(Digest, u64)>,
    /// Snapshots, leaves first.
    pub snapshots: Vec<Resource>,
    /// Keys of ingests, and the bytes they took.
    pub ingests: Vec<(String, u64)>,
    /// Names of images that had expired.
    pub images: Vec<String>,
}

impl Removed {
    /// Bytes of blobs and ingests together.
    pub fn bytes(&self) -> u64 {
        let blobs = self.blobs.iter().map(|(_, size)| size);
        blobs.chain(self.ingests.iter().map(|(_, size)| size)).sum()
    }

    /// Whether there was nothing to remove.
    pub fn is_empty(&self) -> bool {
        *self == Removed::default()
    }
}
