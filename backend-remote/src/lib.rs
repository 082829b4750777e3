//! A store in an object store, through OpenDAL: `s3://BUCKET/PREFIX?endpoint=URL&region=NAME`, and
//! `dir:///path` for the same layout in a directory.
//!
//! ```text
//! PREFIX/
//!   format                    kind, version, and the result of a probe of the endpoint, as JSON
//!   blobs/ALGORITHM/HEX       cell: version, size and part size of a blob, and a digest of the
//!                             ETags of its parts, as JSON
//!   uploads/VERSION.NUMBER    the parts of that version of the blob, 8 MiB each but the last
//!   records/TABLE/NAME        cell: the value of a record; NAME is the escaped key
//!   probe/RANDOM/             objects of a running probe
//! ```
//!
//! A cell is a small object that is only replaced by compare-and-swap: by conditional writes on its
//! ETag if several processes may use the store, and under a lock of the process otherwise. It
//! begins and ends with the same nonce. The nonce makes every ETag unique, identifies a write whose
//! reply was lost, and reveals a read that spans a change. With conditional writes, a cell is
//! deleted by replacing it with a cell without a value. The object is then deleted too, if the
//! service has conditional deletes.
//!
//! Parts are written once, under a version of 64 random bits. So a late deletion never removes
//! parts of a newer version of the blob, and an ingest can be read back and resumed before it is
//! published. A publish writes the parts and then the cell; a removal deletes the cell and then the
//! parts. A kill in between leaves parts that no cell points to, which a collection removes after a
//! day.
//!
//! Some services ignore conditions or do not decide them atomically. A probe finds such services. A
//! store on such a service can only be opened with the option `single=true`, which promises that
//! only one process uses the store. A directory belongs to one process, which locks the file `lock`
//! in it; the file `reserve` in it is space for removals on a full disk. A directory that cannot be
//! written is shared by any number of processes that read it.

mod blob;
mod cell;
mod content;
mod dir_opener;
mod error;
mod examine;
mod folder;
mod format;
mod ingest;
mod nonce;
mod object_name;
mod prefix;
#[cfg(feature = "s3")]
mod probe;
mod reader;
mod records;
mod retry;
mod runtime;
#[cfg(feature = "s3")]
mod s3;
#[cfg(feature = "s3")]
mod shared;
mod store;

pub use dir_opener::DirOpener;
#[cfg(feature = "s3")]
pub use s3::S3Opener;
pub use store::{GAPS, RemoteStore};
