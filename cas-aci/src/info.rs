//! The information that the catalogue has on an ACI.

use std::cmp::Ordering;
use std::time::SystemTime;

use cas_core::{Descriptor, MediaType};
use serde::{Deserialize, Serialize};

use crate::key::Key;

/// Media type of the blob with the archive of an ACI. The archive is a tar, plain or compressed. It
/// is stored as it was imported.
pub const MEDIA_TYPE: &str = "application/vnd.appc.image.aci";
/// Media type of the blob of an image manifest.
pub const MANIFEST_MEDIA_TYPE: &str = "application/vnd.appc.image.manifest+json";

/// An ACI of the catalogue.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct AciInfo {
    /// The key, which is unique in the catalogue.
    pub key: Key,
    /// The name. Several ACIs may have the same name.
    pub name: String,
    /// The time of the last import.
    #[serde(with = "cas_core::time")]
    pub import_time: SystemTime,
    /// The time of the last read or import. The time of a read stays in memory until the next
    /// import, removal or update through the same [`AciStore`](crate::AciStore), or until
    /// [`AciStore::flush`](crate::AciStore::flush).
    #[serde(with = "cas_core::time")]
    pub last_used: SystemTime,
    /// The size of the uncompressed archive in bytes. [`packed_size`](Self::packed_size) returns
    /// the size of the archive in the store.
    pub size: u64,
    /// The size in bytes of the file trees that a container runtime has unpacked from the ACI, as
    /// set by [`update_tree_store_size`](crate::AciStore::update_tree_store_size). It is 0 at
    /// first.
    pub tree_store_size: u64,
    /// Whether the ACI was looked up without a version and imported as the latest version.
    pub latest: bool,
    /// The blob with the archive, which is stored as it was imported.
    pub blob: Descriptor,
    /// The blob with the manifest.
    pub manifest: Descriptor,
    /// The id of the lease that protects both blobs from garbage collection.
    pub lease: String,
}

impl AciInfo {
    /// Returns the information on an ACI that is imported at `time`. `size` and `tree_store_size`
    /// are the sizes of its uncompressed archive and of its unpacked trees in bytes. The
    /// descriptors [`blob`](Self::blob) and [`manifest`](Self::manifest) are placeholders, and
    /// [`lease`](Self::lease) is empty. The caller must set these three fields.
    pub fn new(
        key: Key,
        name: impl Into<String>,
        latest: bool,
        time: SystemTime,
        size: u64,
        tree_store_size: u64,
    ) -> Self {
        let unknown = |media_type| {
            let empty = Descriptor::of(MediaType::from(media_type), b"");
            Descriptor { size: 0, ..empty }
        };
        AciInfo {
            key,
            name: name.into(),
            import_time: time,
            last_used: time,
            size,
            tree_store_size,
            latest,
            blob: unknown(MEDIA_TYPE),
            manifest: unknown(MANIFEST_MEDIA_TYPE),
            lease: String::new(),
        }
    }

    /// Returns the size that the archive takes in the store, in bytes.
    pub fn packed_size(&self) -> u64 {
        self.blob.size
    }
}

/// A field to sort ACIs by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SortField {
    /// The key.
    Key,
    /// The name.
    Name,
    /// The time of the import.
    ImportTime,
    /// The time of the last use.
    LastUsed,
    /// The size of the uncompressed archive.
    Size,
    /// The size of the archive in the store: [`AciInfo::packed_size`].
    PackedSize,
    /// The size of the unpacked trees.
    TreeStoreSize,
    /// [`AciInfo::latest`]. In ascending order, false comes before true.
    Latest,
}

impl SortField {
    fn compare(self, one: &AciInfo, other: &AciInfo) -> Ordering {
        match self {
            SortField::Key => one.key.cmp(&other.key),
            SortField::Name => one.name.cmp(&other.name),
            SortField::ImportTime => one.import_time.cmp(&other.import_time),
            SortField::LastUsed => one.last_used.cmp(&other.last_used),
            SortField::Size => one.size.cmp(&other.size),
            SortField::PackedSize => one.packed_size().cmp(&other.packed_size()),
            SortField::TreeStoreSize => one.tree_store_size.cmp(&other.tree_store_size),
            SortField::Latest => one.latest.cmp(&other.latest),
        }
    }
}

/// Sorts by the first field, then the second, and so on, in ascending or in descending order. ACIs
/// that are equal in all fields stay in their order.
pub(crate) fn sort(infos: &mut [AciInfo], fields: &[SortField], ascending: bool) {
    let compare = |one: &AciInfo, other: &AciInfo| {
        let fields = fields.iter().map(|field| field.compare(one, other));
        let order = fields.fold(Ordering::Equal, Ordering::then);
        if ascending { order } else { order.reverse() }
    };
    infos.sort_by(compare);
}
