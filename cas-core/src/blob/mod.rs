//! Blobs, joined with their records.
//!
//! [`list`] joins all blobs in one pass, and [`info`] joins a single blob. If only the digest of a
//! blob is known, [`describe`] and [`document`] find out its media type, and [`children`] finds out
//! which blobs it lists. These functions read the bytes of the blob only if its record lacks the
//! answer. [`referrers`] returns the referrers that were stored with a manifest or an index.

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
