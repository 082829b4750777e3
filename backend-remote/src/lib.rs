//! A store in an object store, through OpenDAL: `s3://BUCKET/PREFIX?endpoint=URL&region=NAME`, and
//! `dir:///path` for the same layout in a directory.
//!
//! ```text
//! PREFIX/
//!   format                    kind, version, and what a probe found of the endpoint, as JSON
//!   blobs/ALGORITHM/HEX       cell: version, size and length of a part of the blob, as JSON
//!   uploads/VERSION.NUMBER    the parts of that storing of the blob, 8 MiB each but the last
//!   records/TABLE/NAME        cell: the value of a record; NAME is its key, see `name`
//!   probe/RANDOM/             what a probe tries its hands on, for a moment
//! ```
//!
//! A cell is a small object that is only ever replaced by compare-and-swap, on its ETag where the
//! service has conditional writes. A number that never comes again stands at both its ends: so no
//! ETag comes twice, a write whose answer was lost is told from one of somebody else, and a read
//! that was resumed over a change shows. A cell that is deleted becomes a mark that counts as
//! nothing, which goes too where the service has conditional deletion and stays elsewhere.
//!
//! Parts are written once, under a version drawn from 64 random bits, so a deletion that comes
//! late hits nothing newer, and a part is read or resumed before the whole is published. The
//! order is parts, cell of the blob; and backwards when it is removed. What a kill leaves in
//! between is parts that no cell names: they take space, and nothing else.
//!
//! Services that ignore conditions, or do not decide them atomically, are told by a probe and
//! refused, unless `single=true` says that one process alone uses the store. A directory has one
//! owner, which holds `lock` in it.

// Services want more of what is shared than a directory does.
#![cfg_attr(not(feature = "s3"), allow(dead_code))]

mod cell;
mod content;
mod dir;
mod error;
mod format;
mod ingest;
mod name;
mod place;
mod probe;
mod reader;
mod records;
mod runtime;
#[cfg(feature = "s3")]
mod s3;
mod store;
mod upload;

pub use dir::DirOpener;
#[cfg(feature = "s3")]
pub use s3::S3Opener;
pub use store::{GAPS, RemoteStore};
