//! The bounds on input, in one place.
//!
//! Sizes and lengths are in bytes unless stated otherwise. The comment of a constant names the main
//! things that the constant bounds. The bound on a stream is checked while the stream is read. A
//! size that data declares is checked before memory of this size is allocated.

use crate::error::{Error, Result};

/// Maximum size of a manifest, index or configuration that is read. Also the maximum size of one
/// page in which a registry lists referrers.
pub const DOCUMENT_READ: u64 = 8 << 20;
/// Maximum size of a manifest or an index that is pushed, or given to `Cas::ingest_blobs`. Also the
/// maximum size of an index of referrers or a SOCI index that `cas` writes, and of the `index.json`
/// of a store.
pub const DOCUMENT_WRITE: u64 = 4 << 20;
/// Maximum size of the files `format.json` and `oci-layout` in an `fs` store, and of the object
/// `format` in a bucket or in a directory with the layout of a bucket. Also the maximum size of a
/// file in the directory `refs/` of an old image layout that is opened as an `fs` store.
pub const LAYOUT_FILE: u64 = 64 << 10;
/// Maximum depth of nested arrays and objects in a JSON document.
pub const JSON_DEPTH: usize = 64;
/// Maximum number of descriptors that one document lists. Also the maximum number of labels of one
/// object that begin with `containerd.io/gc.ref.` or `containerd.io/gc.bref.`.
pub const DESCRIPTORS: usize = 4096;
/// Maximum depth of nested indexes. The outermost index counts as one level.
pub const INDEX_DEPTH: usize = 4;
/// Maximum number of descriptors that one walk of an image lists, including repeated descriptors.
/// Also the maximum number of documents whose referrers one pull, push or copy looks up.
pub const WALK: usize = 65_536;
/// Maximum number of referrers of one manifest or index that are kept or listed. Also the maximum
/// number of all referrers, including referrers of referrers, that one pull, push or copy takes
/// with an image. For an export, this is the maximum number for all exported images together.
pub const REFERRERS: usize = 1024;
/// Maximum length of a chain of referrers in which each referrer refers to the referrer before it.
/// Pulls, pushes and copies refuse a longer chain.
pub const REFERRER_DEPTH: usize = 8;
/// Maximum number of pages that are read for one listing from a registry. Also the maximum number
/// of pages in a row that have no object, in a list of the objects in a bucket.
pub const PAGES: usize = 1000;
/// Maximum size of one page of tags or repositories, of one page of a list of the objects in a
/// bucket, and of an answer in which the service of a bucket reports an error or confirms a change.
pub const PAGE: u64 = 8 << 20;
/// Maximum number of objects in one list of the objects in a bucket.
pub const OBJECTS: usize = 64 << 20;
/// Maximum number of attempts to change the tag that lists the referrers of a manifest, if other
/// clients change it at the same time.
pub const REFERRER_ATTEMPTS: u32 = 16;
/// Maximum total length of the warnings in one answer of a registry. The OCI distribution
/// specification sets the same maximum.
pub const REGISTRY_WARNINGS: usize = 4096;
/// Maximum size of an answer from a token service or a credential helper, and of an answer in which
/// a registry reports an error. Also the maximum size of one signature that is read to verify an
/// image.
pub const ANSWER: u64 = 1 << 20;
/// Maximum size of a file of logins, such as docker's `config.json`.
pub const LOGINS: u64 = 8 << 20;
/// Maximum size of `hosts.toml`, `registries.conf`, `policy.json`, or a file of certificates or of
/// a public key.
pub const HOSTS_FILE: u64 = 1 << 20;
/// Maximum number of entries of a directory that contains certificates, drop-in configuration files
/// or verifiers (see [`REASON`]).
pub const HOSTS_FILES: usize = 1024;
/// Maximum size of a password that is typed or read from standard input. The line break after the
/// password is counted too.
pub const SECRET: u64 = 64 << 10;
/// Maximum length of the text in which a verifier states why it refused an image. A verifier is a
/// program that checks signatures. The rest of a longer text is read and dropped.
pub const REASON: u64 = 1024;
/// Maximum number of signatures of one image that are checked. Also the maximum number of referrers
/// of the image that are read to find signatures.
pub const SIGNATURES: usize = 64;
/// Maximum number of redirects that one request follows.
pub const REDIRECTS: usize = 5;
/// Maximum length of each part of the text of a platform. The parts of `linux(+erofs)/amd64` are
/// `linux`, `erofs` and `amd64`.
pub const PLATFORM_PART: usize = 64;
/// Maximum number of features in the text of a platform. The only feature of `linux(+erofs)/amd64`
/// is `erofs`.
pub const OS_FEATURES: usize = 16;
/// Maximum number of layers of one image.
pub const LAYERS: usize = 512;
/// Maximum length of the name of an owner (see [`Owner`](crate::Owner)).
pub const OWNER: usize = 64;
/// Maximum length of the name of an image, the id of a lease, or a name in the manifest of an ACI
/// (App Container Image).
pub const NAME: usize = 512;
/// Maximum length of the host in the name of an image, including the port: 253 for a domain name,
/// as in DNS, and 6 for a colon and the port.
pub const HOST: usize = 259;
/// Maximum length of the repository in the name of an image, without the host. Docker has the same
/// maximum.
pub const REPOSITORY: usize = 255;
/// Maximum length of a tag.
pub const TAG: usize = 128;
/// Maximum length of the key of an ingest or a snapshot. Also the maximum length of `room/key`, the
/// key of a record in the table of notes: a room (a namespace of notes), a slash, and the key of a
/// note in this room (see [`Notes`](crate::records::Notes)).
pub const KEY: usize = 1024;
/// Maximum size of the value of a note.
pub const NOTE: usize = 64 << 10;
/// Maximum number of images for which the time of the last use is kept in memory until this time is
/// written to the store.
pub const USES: usize = 65_536;
/// Maximum length of the key and the value of a label together. Also the maximum length of the
/// value of a label in the manifest of an ACI.
pub const LABEL: usize = 4096;
/// Maximum number of labels of one object, not counting labels that begin with
/// `containerd.io/gc.ref.` or `containerd.io/gc.bref.`.
pub const LABELS: usize = 256;
/// Maximum length of a filter expression of a listing.
pub const FILTER: usize = 4096;
/// Maximum length of the path of an entry in a layer.
pub const PATH: usize = 4096;
/// Maximum length of a single component of a path.
pub const COMPONENT: usize = 255;
/// Maximum number of components of a path.
pub const PATH_DEPTH: usize = 512;
/// Maximum number of symbolic links that one path leads through. Linux has the same maximum.
pub const LINKS: usize = 40;
/// Maximum number of entries of one layer. Whenever an entry implies directories (see [`IMPLIED`]),
/// the entries and the implied directories of the layer so far must not exceed this number
/// together, either.
pub const ENTRIES: u64 = 2_000_000;
/// Maximum number of files and directories in the tree into which the layers of one image are
/// merged in memory.
pub const INODES: usize = 4_000_000;
/// Maximum total size of the names, link targets, extended attributes and incomplete last blocks of
/// files in the layers of one image, if the layers are merged in memory.
pub const TREE: usize = 256 << 20;
/// Maximum number of directories whose owner lacks the permission to read, write or search them, in
/// an image that is unpacked without privileges.
pub const CLOSED_DIRECTORIES: usize = 1_000_000;
/// Maximum size of a writable disk, which is stored as one file. Many file systems cannot store a
/// larger file.
pub const WRITABLE_DISK: u64 = 16 << 40;
/// Maximum number of directories that the layers of one image imply. A layer implies a directory
/// that is in the path of an entry, but has no entry of its own. For each entry of a layer,
/// [`IMPLIED_BY_ENTRY`] more implied directories are allowed.
pub const IMPLIED: u64 = 32_768;
/// Maximum number of implied directories for each entry of a layer, in addition to [`IMPLIED`].
pub const IMPLIED_BY_ENTRY: u64 = 16;
/// Maximum number of names that are looked up to find the parents of the entries of one layer, in
/// addition to [`LOOKUPS_BY_ENTRY`] and [`LOOKUPS_BY_NAME`].
pub const LOOKUPS: u64 = 4 << 20;
/// Maximum number of further names that are looked up for each entry of a layer, and for the target
/// of each hard link.
pub const LOOKUPS_BY_ENTRY: u64 = 64;
/// Maximum number of further names that are looked up for each name in the paths of the entries and
/// of the targets of hard links.
pub const LOOKUPS_BY_NAME: u64 = 16;
/// Maximum size of a pax header of one entry.
pub const PAX: u64 = 1 << 20;
/// Maximum size of all global pax headers of one stream together.
pub const PAX_GLOBAL: u64 = 4 << 20;
/// Maximum size of a GNU long name or long link.
pub const GNU_LONG: u64 = 64 << 10;
/// Maximum number of regions of a sparse file.
pub const SPARSE_REGIONS: usize = 64 << 10;
/// Maximum number of different warnings that are reported for one layer, archive or registry. If a
/// layer or an archive has more, one further warning states how many were left out.
pub const WARNINGS: usize = 32;
/// Maximum size of the value of one extended attribute. Linux has the same maximum. An attribute
/// with a larger value is left out.
pub const XATTR: usize = 64 << 10;
/// Maximum total size of the names and values of all extended attributes of one inode.
pub const XATTRS: usize = 256 << 10;
/// Maximum size of a zstd window, as the exponent of a power of two: 27 means 128 MiB.
pub const ZSTD_WINDOW_LOG: u32 = 27;
/// Maximum size of the dictionary of an xz stream. `xz -9` uses half of it.
pub const XZ_DICTIONARY: u64 = 128 << 20;
/// Maximum number of bzip2 streams in one file, in addition to one for each [`BZIP2_STREAM`]
/// decompressed bytes. A stream can be as short as 14 bytes, but for each stream, the decoder needs
/// up to 4 MiB of zeroed memory.
pub const BZIP2_STREAMS: u64 = 1_000;
/// Number of decompressed bytes per additional bzip2 stream: a file may have [`BZIP2_STREAMS`]
/// streams, and one more for each `BZIP2_STREAM` decompressed bytes. Programs that compress in
/// parallel put 100 kB or more into each stream, so their files do not have too many streams.
pub const BZIP2_STREAM: u64 = 64 << 10;
/// Maximum number of parts of a blob in a bucket, or in a directory with the layout of a bucket.
/// `cas` writes parts of 8 MiB, so it can write blobs of up to 8 TiB.
pub const PARTS: u64 = 1 << 20;
/// Maximum size of one part of a blob in a bucket, or in a directory with the layout of a bucket.
/// Also the maximum size of an object in a bucket that is read as a whole.
pub const PART: u64 = 1 << 30;
/// Maximum number of decompressed bytes of one layer, of one ACI, and of an image archive that is
/// read as a stream.
pub const LAYER: u64 = 64 << 30;
/// Maximum number of decompressed bytes for each compressed byte of gzip, checked after the first
/// decompressed MiB. Deflate itself cannot exceed 1,032.
pub const RATIO_GZIP: u64 = 1_100;
/// Maximum number of decompressed bytes for each compressed byte of zstd, xz and bzip2, checked
/// after the first decompressed GiB.
pub const RATIO: u64 = 10_000;
/// Maximum number of members of an image archive. Also the maximum number of unsorted hashes that
/// are kept while a layer is applied. Each change that the layer makes is recorded as a hash. When
/// the maximum is reached, the unsorted hashes are merged into a sorted list.
pub const ENTRIES_IN_MEMORY: usize = 100_000;
/// Maximum size of `/etc/passwd` and of `/etc/group` in an image. A larger file is refused. Also
/// the maximum number of bytes that are read from each of the files `/etc/passwd`, `/etc/subuid`
/// and `/etc/subgid` of this machine. The rest of a larger file is ignored.
pub const ACCOUNTS: u64 = 1 << 20;
/// Maximum number of groups of the user that a process of an image runs as.
pub const GROUPS: usize = 1024;
/// Maximum user or group id that a process may run as. Runtimes do not accept a larger id.
pub const ID: u32 = i32::MAX as u32;

/// Maximum size of the file that records the state of one unpacking of an image.
pub const UNPACK_JOB: u64 = 4 << 20;
/// Maximum size of the file that records the effects of one layer on the layers below it, such as
/// the names that the layer hides.
pub const UNPACK_EFFECTS: u64 = 16 << 20;

/// Maximum size of a zTOC, SOCI's table of contents of one layer. Also the maximum number of bytes
/// that the strings of a zTOC, such as file names, take in memory.
pub const ZTOC: u64 = 288 << 20;
/// Maximum number of spans of one layer. A span is a part of the compressed layer that can be
/// decompressed without the parts before it. Instead, the decoder uses a checkpoint, which contains
/// the last 32 KiB of decompressed data before the span.
pub const SPANS: usize = 8192;
/// Maximum size of a prefetch artifact, SOCI's list of the spans of one layer that are fetched
/// first.
pub const PREFETCH: u64 = 1 << 20;
/// Maximum number of decompressed bytes of one span of a layer (see [`SPANS`]). Also the maximum
/// number of compressed bytes of one span.
pub const SPAN: u64 = 256 << 20;
/// Maximum number of checkpoints that an unpack records for a gzip layer, so that the layer can be
/// decompressed in parallel later. A larger layer has checkpoints at larger distances.
pub const CHECKPOINTS: usize = 512;
/// Maximum number of compressed or decompressed bytes between two checkpoints of a layer that is
/// decompressed in parallel. A layer with a larger distance is decompressed by one thread.
pub const CHECKPOINT_SPAN: u64 = 32 << 20;

/// Maximum size of the table of contents of an eStargz or zstd:chunked layer. The bound holds for
/// the compressed size and for the decompressed size.
pub const LAYER_TOC: u64 = 256 << 20;

/// Maximum size of the manifest of an ACI (App Container Image).
pub const ACI_MANIFEST: u64 = 1 << 20;
/// Maximum number of dependencies, labels, annotations, mount points, ports, whitelisted paths,
/// arguments, variables, event handlers or groups that the manifest of an ACI lists. The bound
/// holds for each of these lists.
pub const ACI_LIST: usize = 4096;
/// Maximum number of ACIs in a chain in which each depends on the next.
pub const ACI_DEPTH: usize = 32;
/// Maximum number of ports of the app of one ACI: all ports of TCP and all ports of UDP.
pub const ACI_PORTS: usize = 2 * 65_535;
/// Maximum size of the database of rkt's image store. A larger database is refused.
pub const QL_DATABASE: u64 = 64 << 20;
/// Maximum number of bytes that the tables of rkt's database take in memory.
pub const QL_TABLES: u64 = 4 * QL_DATABASE;
/// Maximum number of keys or versions of ACIs that are listed in one message.
pub const CANDIDATES: usize = 8;
/// Maximum length of the URL of an ACI or of its signature, and of an ETag.
pub const URL: usize = 8192;
/// Maximum number of ACIs for which the time of the last read is kept in memory until this time is
/// written to the store.
pub const NOTED_READS: usize = 4096;

/// Checks that a document of `found` bytes does not exceed [`DOCUMENT_READ`]. Call this function
/// before you read the document.
///
/// # Errors
/// `OutOfRange` if the document is larger.
pub fn check_document(found: u64) -> Result<()> {
    if found <= DOCUMENT_READ {
        return Ok(());
    }
    let allowed = DOCUMENT_READ;
    Err(Error::out_of_range(format!(
        "the document has {found} bytes; at most {allowed} are read; build the image again with a \
         smaller document"
    )))
}
