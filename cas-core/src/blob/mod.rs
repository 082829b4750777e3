//! Blobs, joined with their records.
//!
//! [`list`] joins all blobs in one pass, and [`info`] joins a single blob. If only the digest of a
//! blob is known, [`describe`] and [`document`] find out its media type, and [`children`] finds out
//! which blobs it lists. These three functions read the bytes of the blob only if its record lacks
//! the answer. [`referrers`] returns the referrers of a manifest or an index, and
//! [`stored_subject`] returns the subject of a referrer. [`read_verified`] reads and verifies a
//! whole blob.

mod damaged;
mod describe;
mod info;
mod list;
mod referrers;
mod sniff;

pub(crate) use damaged::note_damaged;
pub use damaged::{name_damaged, read_verified};
pub use describe::{children, describe, document};
pub use info::{BlobInfo, info};
pub use list::{BlobList, BlobProblem, list};
pub use referrers::{referrers, stored_subject};
pub use sniff::{HEAD, may_be_document};
