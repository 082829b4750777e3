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
    /// Snapshots, and their disk usage in bytes, or 0 if it is unknown: children before their
    /// parents, or in any order after a dry run.
    pub snapshots: Vec<(Resource, u64)>,
    /// Keys of ingests, and the numbers of bytes that were written to them.
    pub ingests: Vec<(String, u64)>,
    /// Names of expired images.
    pub images: Vec<String>,
    /// What killed or failed jobs have left in the content store, in the snapshotters and next to
    /// them.
    pub leftovers: Vec<Leftover>,
}

/// Something that a killed or failed job has left.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leftover {
    /// Where it is: `content`, or a path below the root, such as `snapshots/native`.
    pub place: String,
    /// The space that it takes.
    pub usage: Usage,
}

impl Removed {
    /// Returns the sum of the sizes of all blobs, ingests, snapshots and leftovers, in bytes.
    pub fn bytes(&self) -> u64 {
        let blobs = self.blobs.iter().map(|(_, size)| size);
        let ingests = self.ingests.iter().map(|(_, size)| size);
        let snapshots = self.snapshots.iter().map(|(_, size)| size);
        let leftovers = self.leftovers.iter().map(|left| &left.usage.bytes);
        blobs.chain(ingests).chain(snapshots).chain(leftovers).sum()
    }

    /// Adds a leftover, unless it takes no space and has no files.
    pub fn add_leftover(&mut self, place: impl Into<String>, usage: Usage) {
        if usage != Usage::default() {
            let place = place.into();
            self.leftovers.push(Leftover { place, usage });
        }
    }

    /// Puts the snapshots and leftovers of `earlier` before those of `self`. Returns the result.
    #[must_use]
    pub fn after(mut self, earlier: Removed) -> Self {
        self.snapshots.splice(0..0, earlier.snapshots);
        self.leftovers.splice(0..0, earlier.leftovers);
        self
    }

    /// Returns whether nothing is listed. Even then, the collection may have removed expired
    /// leases, and records of image names that no longer exist.
    pub fn is_empty(&self) -> bool {
        *self == Removed::default()
    }
}
