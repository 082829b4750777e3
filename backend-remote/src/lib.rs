//! A store in an object store, through OpenDAL. Its location is
//! `s3://BUCKET/PREFIX?endpoint=URL&region=NAME`, or `dir:///path` for the same layout in a local
//! directory.
//!
//! ```text
//! PREFIX/
//!   format                    kind, version, and the result of a probe of the endpoint, as JSON
//!   format.damaged-NAME       a damaged object `format` that a repair has replaced
//!   blobs/ALGORITHM/HEX       cell: digest, version, size and part size of a blob, and a digest
//!                             of the ETags of its parts, as JSON
//!   uploads/VERSION.NUMBER    the parts of that version of the blob, 8 MiB each but the last
//!   records/TABLE/NAME        cell: the value of a record; NAME is the escaped key
//!   probe/RANDOM/             objects of a running probe, or of a probe that was killed
//! ```
//!
//! A cell is a small object that is only changed by compare-and-swap. If several processes may use
//! the store, a swap is a conditional write that requires the old ETag. Otherwise, a lock in the
//! process protects the cell. A cell begins and ends with the same nonce. The nonce makes every
//! ETag unique, identifies a write whose reply was lost, and reveals a read that spans a change.
//! With conditional writes, a deletion first replaces the cell with a cell that has no value. If
//! the service supports conditional deletes, the deletion then also removes the object. If a
//! process is killed in between, a garbage collection removes the object after a day.
//!
//! Parts are written once, under a version of 64 random bits. A late deletion therefore never
//! removes parts of a newer version of the blob. An ingest writes each part when the part is full.
//! Before the publish, the process that began the ingest can resume the ingest and read back the
//! bytes. A publish writes the last part and then the cell. A removal deletes the cell and then the
//! parts. A process that is killed during an ingest, a publish or a removal can leave parts that no
//! cell points to. A garbage collection removes such parts. If several processes may use the store,
//! the collection removes only parts that are at least a day old.
//!
//! Some services ignore conditions or do not evaluate them atomically. A probe finds such services.
//! A store on such a service can only be opened with the option `single=true`. A caller that sets
//! this option promises that only one process uses the store.
//!
//! A request to a service fails if the service does not answer within 30 seconds, or sends less
//! than 10 KiB of its answer in 10 seconds. A failed request is repeated up to five times, unless
//! all requests of the store, or all requests for this object, have failed for a minute. An upload
//! fails, and is not repeated, if the service accepts none of its bytes for a minute. After the last
//! byte, the service has a minute and the time that the upload has taken to answer. An upload that
//! makes progress may take any time. An answer fails if it is larger than the requested range. A
//! list of objects fails if it is not in byte order or does not end. Redirects are not followed.
//!
//! A store in a directory has two more files and a folder. The process that has the store open
//! locks the file `lock`. The file `reserve` is space for removals on a full disk. Files are
//! written in the folder `beside` before they are renamed. If the directory cannot be written, any
//! number of processes can have the store open for reading.

mod blob;
mod cell;
mod content;
mod dir_opener;
mod error;
mod examine;
mod folder;
mod folder_check;
mod format;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
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
#[cfg(feature = "s3")]
mod transport;

pub use dir_opener::DirOpener;
pub use error::SERVICE;
#[cfg(feature = "s3")]
pub use s3::S3Opener;
pub use store::{GAPS, RemoteStore};
