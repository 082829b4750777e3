//! Every bound on input, in one place.
//!
//! Sizes and lengths are in bytes unless stated otherwise. A bound is checked while data is
//! streaming, and before anything is allocated from a declared size.

use crate::error::{Error, Result};

/// Largest manifest, index or configuration that is read.
pub const DOCUMENT_READ: u64 = 8 << 20;
/// Largest manifest, index or configuration that is written or pushed.
pub const DOCUMENT_WRITE: u64 = 4 << 20;
/// Deepest nesting of arrays and objects in a JSON document.
pub const JSON_DEPTH: usize = 64;
/// Most descriptors that one document may list.
pub const DESCRIPTORS: usize = 4096;
/// Deepest nesting of indexes; the root counts as one level.
pub const INDEX_DEPTH: usize = 4;
/// Most descriptors that one walk of an image may list, repeated ones included.
pub const WALK: usize = 65_536;
/// Largest answer of a registry, a token service or a credential helper, blobs and manifests
/// excepted.
pub const ANSWER: u64 = 1 << 20;
/// Most redirects that one request follows.
pub const REDIRECTS: usize = 5;
/// Most layers of one image.
pub const LAYERS: usize = 512;
/// Longest name of an owner.
pub const OWNER: usize = 64;
/// Longest image name.
pub const NAME: usize = 512;
/// Longest key of an ingest or a snapshot, and longest room and key of a note together.
pub const KEY: usize = 1024;
/// Largest value of a note.
pub const NOTE: usize = 64 << 10;
/// Longest label, key and value together.
pub const LABEL: usize = 4096;
/// Most labels of one object.
pub const LABELS: usize = 256;
/// Longest filter expression of a listing.
pub const FILTER: usize = 4096;
/// Longest path of an entry in a layer.
pub const PATH: usize = 4096;
/// Longest single component of a path.
pub const COMPONENT: usize = 255;
/// Most components of a path.
pub const PATH_DEPTH: usize = 512;
/// Most entries of one layer.
pub const ENTRIES: u64 = 2_000_000;
/// Largest set of pax records of one entry.
pub const PAX: u64 = 1 << 20;
/// Largest set of global pax records of one stream.
pub const PAX_GLOBAL: u64 = 4 << 20;
/// Largest GNU long name or long link.
pub const GNU_LONG: u64 = 64 << 10;
/// Most regions of a sparse file.
pub const SPARSE_REGIONS: usize = 64 << 10;
/// Largest value of one extended attribute.
pub const XATTR: usize = 64 << 10;
/// Largest sum of the extended attributes of one inode.
pub const XATTRS: usize = 256 << 10;
/// Largest zstd window, as the exponent of a power of two.
pub const ZSTD_WINDOW_LOG: u32 = 27;
/// Most decompressed bytes of one layer.
pub const LAYER: u64 = 64 << 30;
/// Most decompressed bytes for each compressed byte of gzip. Deflate itself cannot exceed 1,032.
pub const RATIO_GZIP: u64 = 1_100;
/// Most decompressed bytes for each compressed byte of zstd, not counting the first GiB.
pub const RATIO_ZSTD: u64 = 10_000;
/// Most members of an image archive. Also the number of facts about a layer that are kept unsorted
/// before they are merged into the sorted ones, which take 8 bytes each.
pub const ENTRIES_IN_MEMORY: usize = 100_000;
/// Largest `/etc/passwd` or `/etc/group` of an image that is read.
pub const ACCOUNTS: u64 = 1 << 20;
/// Largest user or group id that a process may run as; runtimes accept no larger one.
pub const ID: u32 = i32::MAX as u32;

/// Checks the size of a document that is about to be read against [`DOCUMENT_READ`].
///
/// # Errors
/// `OutOfRange` if it is larger.
pub fn check_document(found: u64) -> Result<()> {
    if found <= DOCUMENT_READ {
        return Ok(());
    }
    let allowed = DOCUMENT_READ;
    Err(Error::out_of_range(format!(
        "a document of {found} bytes: at most {allowed} are read"
    )))
}
