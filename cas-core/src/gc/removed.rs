//! What a collection removed.

use crate::digest::Digest;
use crate::records::Resource;
use crate::snapshot::Usage;

/// What a collection removed, or would remove. Expired leases are not listed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Removed {
    /// Blobs and their sizes in bytes. The size is 0 for a record without bytes.
    pub blobs: Vec<(Digest, u64)>,
    /// Blobs that stay, although the claim of the owner was dropped.
    pub released: Vec<Digest>,
    /// Snapshots: children before their parents, or in any order after a dry run.
    pub snapshots: Vec<Resource>,
    /// Keys of ingests, and the numbers of bytes that were written to them.
    pub ingests: Vec<(String, u64)>,
    /// Names of expired images.
    pub images: Vec<String>,
    /// The space that leftovers of killed or failed jobs took in the content store, in the
    /// snapshotters and elsewhere in the root.
    pub leftovers: Usage,
}

impl Removed {
    /// Returns the sum of the sizes of all blobs, ingests and leftovers, in bytes.
    pub fn bytes(&self) -> u64 {
        let blobs = self.blobs.iter().map(|(_, size)| size);
        let ingests = self.ingests.iter().map(|(_, size)| size);
        blobs.chain(ingests).sum::<u64>() + self.leftovers.bytes
    }

    /// Returns whether nothing is listed. Even then, the collection may have removed expired
    /// leases, and records of image names that no longer exist.
    pub fn is_empty(&self) -> bool {
        *self == Removed::default()
    }
}
