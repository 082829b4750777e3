//! What a collection removed.

use crate::digest::Digest;
use crate::records::Resource;
use crate::snapshot::{Snapshotter, Usage};

/// What a collection removed, or would remove. Expired leases are not listed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Removed {
    /// Blobs and their sizes in bytes. Records of blobs without bytes are not listed.
    pub blobs: Vec<(Digest, u64)>,
    /// Blobs that stay in the store, and on which a collection for an owner dropped the claim of
    /// this owner.
    pub released: Vec<Digest>,
    /// Snapshots, and their disk usage in bytes, or 0 if it is unknown. Children come before their
    /// parents, except after a dry run, where the order is not defined.
    pub snapshots: Vec<(Resource, u64)>,
    /// Keys of ingests, and the numbers of bytes that were written to them.
    pub ingests: Vec<(String, u64)>,
    /// Names of expired images.
    pub images: Vec<String>,
    /// What killed or failed jobs have left in the content store and in directories below the root
    /// directory of `cas`, such as those of the snapshotters.
    pub leftovers: Vec<Leftover>,
}

/// Data that killed or failed jobs have left in one place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leftover {
    /// `content` for the content store, or else the path of a directory relative to the root
    /// directory of `cas`, such as `snapshots/native`.
    pub place: String,
    /// The space that the data takes.
    pub usage: Usage,
}

impl Leftover {
    /// Returns the [`place`](Self::place) of what is left in the directory of a snapshotter.
    pub fn place_in(snapshotter: &dyn Snapshotter) -> String {
        format!("snapshots/{}", snapshotter.name())
    }
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

    /// Returns `self` with the snapshots and leftovers of `earlier` before its own. Everything else
    /// that `earlier` lists is dropped.
    #[must_use]
    pub fn after(mut self, earlier: Removed) -> Self {
        self.snapshots.splice(0..0, earlier.snapshots);
        self.leftovers.splice(0..0, earlier.leftovers);
        self
    }

    /// Returns whether nothing is listed. Even then, the collection may have removed expired
    /// leases, records of blobs without bytes, and records of image names that no longer exist.
    pub fn is_empty(&self) -> bool {
        *self == Removed::default()
    }
}
