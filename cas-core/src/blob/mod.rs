//! Blobs, joined with their records.
//!
//! [`list`] joins all blobs in one pass, and [`info`] joins a single blob. [`describe`],
//! [`document`] and [`children`] find out what a blob is, if only its digest is known: from its
//! record or, if the record does not state it, from its bytes. [`referrers`] returns the referrers
//! that were stored with a manifest or an index.

mod describe;
mod info;
mod list;
mod referrers;
mod sniff;

pub use describe::{children, describe, document};
pub use info::{BlobInfo, info};
pub use list::{BlobList, BlobProblem, list};
pub use referrers::referrers;
pub use sniff::{HEAD, may_be_document};
